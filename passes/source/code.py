"""Pieces of Python text with open numbers, laid out in lines as ruff lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WIDTH = 120
INDENT = "    "

# How tightly an expression binds; a looser one gets parentheses inside a tighter one.
ATOM, CALL, POWER, UNARY, PRODUCT, SUM, SHIFT, AND, XOR, OR, COMPARISON, NOT, CHOICE = range(20, 7, -1)


@dataclass(frozen=True)
class Hole:
    """A number that may differ between the blocks of one class.

    Attributes:
        value: in this block.
        role: what it is, as ``size``; it names the argument that the number may become.
    """

    value: int | float
    role: str


@dataclass(frozen=True)
class Bracket:
    """The items between brackets, separated by commas; each may take a line of its own."""

    opening: str
    items: tuple[Code, ...]
    closing: str


@dataclass(frozen=True)
class Code:
    """An expression: text, open numbers and groups, and how tightly its operator binds."""

    parts: tuple[str | Hole | Bracket, ...]
    level: int = ATOM

    def inside(self, level: int) -> Code:
        """Return this expression as an operand, in parentheses if it binds less tightly."""
        return self if self.level >= level else Code(("(", *self.parts, ")"))

    def holes(self) -> Iterator[Hole]:
        """Yield the open numbers from left to right."""
        for part in self.parts:
            if isinstance(part, Hole):
                yield part
            elif isinstance(part, Bracket):
                for item in part.items:
                    yield from item.holes()

    def filled(self, texts: Iterator[str]) -> Code:
        """Replace the open numbers, from left to right, by texts."""
        return Code(tuple(_filled(part, texts) for part in self.parts), self.level)

    def line(self) -> str:
        """Write everything in one line."""
        return "".join(_line(part) for part in self.parts)


def text(words: str, level: int = ATOM) -> Code:
    """Return a piece of text."""
    return Code((words,), level)


def join(*pieces: str | Code | Bracket | Hole, level: int = ATOM) -> Code:
    """Put pieces next to each other."""
    parts: list[str | Hole | Bracket] = []
    for piece in pieces:
        parts += piece.parts if isinstance(piece, Code) else (piece,)
    return Code(tuple(parts), level)


def call(
    function: Code | str, args: list[Code] | tuple[Code, ...] = (), kwargs: Mapping[str, Code] | None = None
) -> Code:
    """Return ``function(*args, **kwargs)``."""
    head = text(function) if isinstance(function, str) else function.inside(CALL)
    named = [join(f"{name}=", value) for name, value in (kwargs or {}).items()]
    return join(head, Bracket("(", (*args, *named), ")"), level=CALL)


def lines(code: Code, depth: int, *, before: str = "", after: str = "") -> Iterator[str]:
    """Lay an expression out, one item of its last group per line if one line is too long."""
    start = INDENT * depth + before
    joined = start + code.line() + after
    spot = max((i for i, part in enumerate(code.parts) if isinstance(part, Bracket) and part.items), default=None)
    if len(joined) <= WIDTH or spot is None:
        yield joined
        return
    group = code.parts[spot]
    assert isinstance(group, Bracket)
    yield start + Code(code.parts[:spot]).line() + group.opening
    for item in group.items:
        yield from lines(item, depth + 1, after=",")
    yield INDENT * depth + group.closing.lstrip(",") + Code(code.parts[spot + 1 :]).line() + after


def _filled(part: str | Hole | Bracket, texts: Iterator[str]) -> str | Bracket:
    if isinstance(part, Hole):
        return next(texts)
    if isinstance(part, Bracket):
        return Bracket(part.opening, tuple(item.filled(texts) for item in part.items), part.closing)
    return part


def _line(part: Any) -> str:
    if isinstance(part, Hole):
        return repr(part.value)
    if isinstance(part, Bracket):
        inner = ", ".join(item.line() for item in part.items)
        comma = "," if part.opening == "(" and part.closing == ",)" else ""
        return f"{part.opening}{inner}{comma}{part.closing.lstrip(',')}"
    return str(part)
