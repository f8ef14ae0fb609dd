"""Write numbers, names and lines as every command and page does."""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Iterable


def in_units(number: float, noun: str = "") -> str:
    """Format a count with three significant digits: 11.7 k, 1.82 GB; below 10,000 as it is."""
    for unit, size in {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.items():
        if abs(number) >= max(9999.5, 0.9995 * size):
            shown = number / size
            return f"{shown:.{2 if abs(shown) < 9.995 else 1 if abs(shown) < 99.95 else 0}f} {unit}{noun}"
    is_integer = number == round(number) or abs(number) >= 99.5
    return f"{number:,.0f} {noun}".rstrip() if is_integer else f"{number:.3g} {noun}".rstrip()


def percent(share: float) -> str:
    """Format a share as a percentage; one that is not all or nothing is neither 100 % nor 0 %."""
    if 0.0 < share < 0.001:
        return "< 0.1 %"
    shown = f"{100 * share:.1f}"
    return "> 99.9 %" if shown == "100.0" and share < 1.0 else f"{shown} %"


def count(number: int, noun: str) -> str:
    """Count a noun: 1 group, 2 groups."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """List the first names, and count the others."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def shortened(text: str, most: int) -> str:
    """Shorten a text at its beginning, at a dot if one is near: ends of names tell layers apart."""
    if len(text) <= most:
        return text
    end = text[3 - most :]
    dot = end.find(".", 0, most // 3) + 1
    return f"...{end[dot:]}"


def printable(text: str) -> str:
    """Escape letters that end a line, or that a terminal obeys, as in a stranger's names."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def fill(text: str, columns: int, indent: int = 0) -> str:
    """Wrap a text at words; names are not broken, nor a number and its unit."""
    # 11.7 M and x 0.25 stay on one line
    kept = re.sub(r"(?<=\d) (?=(?:[kMGT]B?|B|m?s|min|h)\b|%)|(?<=\bx) (?=\d)", "\N{NO-BREAK SPACE}", text)
    wrap = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    return wrap(kept, columns, subsequent_indent=" " * indent).replace("\N{NO-BREAK SPACE}", " ")
