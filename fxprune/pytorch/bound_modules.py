"""Look up each module that holds layers once in a call of generated code.

PyTorch's own code walks from ``self`` to every layer. An attribute of a module takes some half a
microsecond, and a network of small layers spends 5 % of its time on them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection

TransformCode = Callable[[list[str]], list[str]]

# A result, and the layer or tensor that it takes: `add = getattr(self.blocks, "0").norm(`.
_LINE = re.compile(r'( *\w+(?: ?: ?[^=]+)? = )((?:getattr\()*self(?:\.\w+|, "[^"]*"\))+)(.*)')
_STEP = re.compile(r'\.(\w+)|, "([^"]*)"\)')


def binding(earlier: TransformCode | None) -> TransformCode:
    """Return what changes the lines of generated code, after what changed them before."""
    return functools.partial(_bound, earlier)


def _bound(earlier: TransformCode | None, body: list[str]) -> list[str]:
    text = "".join(body if earlier is None else earlier(body))
    mark = "_"
    while re.search(rf"\b{mark}", text):
        mark += "_"
    names: dict[tuple[str, ...], str] = {(): "self"}
    lines: list[str] = []
    for line in text.split("\n"):
        if found := _LINE.fullmatch(line):
            start, path, rest = found.groups()
            steps = tuple(plain or quoted for plain, quoted in _STEP.findall(path))
            for depth in range(1, len(steps)):
                held = steps[:depth]
                if held not in names:
                    indent = " " * (len(start) - len(start.lstrip()))
                    made = _step(names[held[:-1]], held[-1])
                    names[held] = _new_name(mark + "_".join(held), names.values())
                    lines.append(f"{indent}{names[held]} = {made}")
            line = f"{start}{_step(names[steps[:-1]], steps[-1])}{rest}"
        lines.append(line)
    return ["\n".join(lines)]


def _new_name(wanted: str, taken: Collection[str]) -> str:
    name = re.sub(r"\W", "_", wanted)
    return name if name not in taken else _new_name(f"{wanted}_", taken)


def _step(holder: str, name: str) -> str:
    return f"{holder}.{name}" if name.isidentifier() else f'getattr({holder}, "{name}")'
