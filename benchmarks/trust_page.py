"""Write ``docs/reports/trust.md``, with one section per command, which replaces its own."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import ROOT
from fxprune.common.files import write_text

PAGE = ROOT / "docs" / "reports" / "trust.md"
HEAD = """# Trust

What was tried in order to bring fxprune down, and what came of it. Each section is written by the command that it
names, never by hand.

Nothing on this page was run on a device with CUDA. `make test-cuda` runs there what needs one (the hook, also with AMP
in float16 and bfloat16 and with NCCL, a job that is resumed, narrow networks, onnxruntime's provider), and skips it
where there is none, which has been everywhere so far.
"""
# The order of the sections; others follow.
ORDER = (
    "Random networks",
    "Precision",
    "Views at other sizes",
    "Damaged files",
    "Mutations of the sources",
    "Mutations of lengths and modes",
    "Rounding",
)


def write_section(title: str, text: str, page: Path = PAGE, head: str = HEAD) -> None:
    """Replace one section of a page, or add it; all others stay as they are."""
    found = sections(page.read_text(encoding="utf-8")) if page.exists() else {}
    found[title] = text.strip()
    ranked = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, head + "".join(f"\n## {name}\n\n{found[name]}\n" for name in ranked))


def sections(text: str) -> dict[str, str]:
    """Map the title of each section of a page to its text."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {title.strip(): body.strip() for title, body in zip(parts[::2], parts[1::2])}
