"""Fill the templates of pages: Markdown with Jinja's tags, beside the code that measures."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import ROOT

from .tables import markdown_table


def paragraph(text: str) -> str:
    """Wrap a text to the usual line length."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def fill(template: str, **values: Any) -> str:
    """Fill ``benchmarks/TEMPLATE``; of what is left out, no empty lines stay.

    They know ``table(header, rows)``, and the filters ``paragraph`` and ``form``, as in ``{{ share | form(".0%") }}``.
    """
    page = Environment(
        loader=FileSystemLoader(ROOT / "benchmarks"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page.filters |= {"form": format, "paragraph": paragraph}
    text = page.get_template(template).render(values, table=markdown_table)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
