"""Write JSON files, and read those that anybody may have written, with limits and checks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from fxprune.common.files import open_plain, write_text
from fxprune.errors import InputError, OptionError

# Our largest file, a plan for a network of a million channels, has 20 MB, and no file of ours is nested deeper.
LARGEST = 64 << 20
DEEPEST = 64


def read_json(path: str | os.PathLike[str], what: str, wrong: type[InputError], remedy: str) -> Any:
    """Read the value of a JSON file.

    Args:
        path: the file.
        what: what it should be, as ``plan file``.
        wrong: the class of the error.
        remedy: a sentence that says what to do about a damaged file.

    Raises:
        InputError: of the class ``wrong``: the file is missing, incomplete, too large or too deep, gives a key twice,
            or holds numbers or text that no file of ours holds.
    """
    try:
        text = read_bounded(path)
    except OSError as error:
        raise wrong(f"cannot read the {what} {os.fspath(path)}: {error.strerror}. {remedy}") from error
    except ValueError as error:
        raise wrong(f"{os.fspath(path)} is not a whole {what}: {error}. {remedy}") from error
    try:
        return parse_json(text)
    except ValueError as error:
        raise wrong(f"{os.fspath(path)} is not a whole {what}: {error}. {remedy}") from error


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all, for people to read, too.

    Raises:
        OptionError: it holds text that :func:`read_json` refuses, so that the file would be lost.
    """
    try:
        check_value(value)
    except ValueError as error:
        raise OptionError(f"{os.path.basename(path)} would not be readable: {error}. Use another name.") from error
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_bounded(path: str | os.PathLike[str], largest: int = LARGEST) -> str:
    """Read the text of a file; raise ValueError if it is too large, or not UTF-8."""
    with open_plain(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it is larger than {largest} bytes")
    return data.decode("utf-8")


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: it is not JSON, nested deeper than ``DEEPEST``, gives a key twice, or holds a number that is not
            finite or has more than 64 bits, or text that is not printable.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=distinct, parse_constant=_no_number, parse_float=_float, parse_int=_integer
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    check_value(value)
    return value


def check_value(value: Any) -> None:
    """Raise ValueError if a nest of dicts and lists is too deep, or has unprintable text."""
    level = [value]
    for _ in range(DEEPEST):
        following: list[Any] = []
        for each in level:
            if isinstance(each, str):
                _check_text(each)
            elif isinstance(each, dict):
                following += [*each, *each.values()]
            elif isinstance(each, list | tuple):
                following += each
        if not following:
            return
        level = following
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")


def check_format(value: Any, format: str, version: int, path: str | os.PathLike[str], wrong: type[InputError]) -> None:
    """Raise ``wrong`` unless a document has this format and version."""
    file = os.fspath(path)
    if not isinstance(value, dict) or value.get("format") != format:
        raise wrong(f"{file} is not an {format.replace('-', ' ')} (no `format: {format}` in it).")
    found = value.get("version")
    if found != version or type(found) is not int:
        way = "Update fxprune" if type(found) is int and found > version else "Make it again"
        raise wrong(f"{file} has version {_short(found)}; this fxprune reads version {version}. {way}.")


def check_fields(
    value: Mapping[str, Any],
    kinds: Mapping[str, tuple[type, ...]],
    path: str | os.PathLike[str],
    wrong: type[InputError],
    remedy: str = "",
) -> None:
    """Raise ``wrong`` if a field is missing, unknown or of another type; True is no integer."""
    for name, kind in kinds.items():
        if name not in value or type(value[name]) not in kind:
            found = f"is {_short(value[name])}" if name in value else "is missing"
            words = " or ".join("null" if each is type(None) else each.__name__ for each in kind)
            said = f"{os.fspath(path)} is damaged: `{name}` {found}; it must be {words}. {remedy}"
            raise wrong(said.rstrip())
    if unknown := [name for name in value if name not in (*kinds, "format", "version")]:
        said = f"{os.fspath(path)} is damaged: there is no field {_short(unknown[0])} in such a file. {remedy}"
        raise wrong(said.rstrip())


def _short(value: Any) -> str:
    """Describe any value in a few letters."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a JSON text; raise ValueError if it gives a key twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{_short(twice)} is given twice")
    return result


def _no_number(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is no number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}, which is no finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"it holds the number {text[:40]}, which has more than 64 bits")
    return value


def _check_text(text: str) -> None:
    if text.isascii() and text.isprintable():
        return
    if any((letter < " " and letter not in "\n\t") or "\x7f" <= letter < "\xa0" for letter in text):
        raise ValueError(f"it holds text with control characters, {_short(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"it holds text that cannot be shown, {_short(text)}") from None
