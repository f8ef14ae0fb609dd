"""What the documents show in fenced blocks, and how the Python in them runs: in one namespace."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
_BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of its first line, and why it does not run (None: it does)."""

    language: str
    line: int
    text: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of the shell, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of these languages, or all of them."""
    found = [
        Block(block["language"], text.count("\n", 0, block.start("text")) + 1, block["text"], block["reason"])
        for block in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def run_python(text: str, defined: dict[str, Any], name: str = "page") -> dict[str, Any]:
    """Run the Python of a page block by block in one namespace; a traceback shows the lines of the page."""
    for block in blocks(text, "python"):
        if block.reason is None:
            exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), defined)
    return defined


def shape(line: str) -> str:
    """Return a line with its numbers and the width of its columns taken out."""
    return " ".join(re.sub(r"(?<![A-Za-z])[\d,]*\d(\.\d+)?(e[-+]?\d+)?", "#", line).split())


def shows(shown: str, printed: str) -> list[str]:
    """Return the lines of an output block that a command did not print; ``...`` stands for what is left out."""
    lines = {shape(line) for line in printed.splitlines()}
    wanted = [line.removesuffix("...").rstrip() for line in shown.splitlines() if line.strip() != "..."]
    return [line for line in wanted if not any(each.startswith(shape(line)) for each in lines)]
