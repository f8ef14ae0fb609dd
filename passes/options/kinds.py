"""What an option may be: a number, text, a switch, a list of those, or names with one of those each."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# How each is called in an error, and by its place holder in the help.
ITEMS = {
    int: ("an integer", "integers", "N"),
    float: ("a number", "numbers", "X"),
    bool: ("true or false", "switches", "true|false"),
    str: ("text", "texts", "NAME"),
    os.PathLike: ("a path", "paths", "PATH"),
}
# Whatever else an annotation allows, a network or data as such, cannot be written down, and is left to Python.
NAMES = {each.__name__: each for each in (int, float, bool, str)} | {"os.PathLike[str]": os.PathLike}
LISTS = {"Sequence": tuple, "tuple": tuple, "list": list}


class Kind(Protocol):
    """A form of an option: as YAML gives it, as a command line gives it, and in words."""

    @property
    def item(self) -> type:
        """The scalar that it is, or holds."""

    @property
    def many(self) -> bool:
        """Whether it takes several words of a command line."""

    def read(self, value: Any) -> Any:
        """The value; ValueError: it is of another kind."""

    def parse(self, words: Sequence[str]) -> Any:
        """The value of these words; ValueError: they are of another kind."""


@dataclass(frozen=True)
class One:
    """One scalar; an integer will do for a number, and nothing else for anything else."""

    item: type
    many = False

    def read(self, value: Any) -> Any:
        """The scalar itself."""
        if self.item is float and type(value) is int:
            return float(value)
        if type(value) is not self._type:
            raise ValueError
        return value

    def parse(self, words: Sequence[str]) -> Any:
        """The scalar that one word stands for."""
        (word,) = words
        if self.item is bool:
            return {"true": True, "false": False}[word] if word in ("true", "false") else self.read(word)
        return self._type(word)

    @property
    def _type(self) -> type:
        """Paths are held as text."""
        return str if self.item is os.PathLike else self.item

    def __str__(self) -> str:
        return ITEMS[self.item][0]


@dataclass(frozen=True)
class Many:
    """A list of scalars, as ``make`` holds it."""

    item: type
    make: type = tuple
    many = True

    def read(self, value: Any) -> Any:
        """A list or tuple of scalars."""
        if not isinstance(value, list | tuple):
            raise ValueError
        return self.make(One(self.item).read(each) for each in value)

    def parse(self, words: Sequence[str]) -> Any:
        """One scalar per word."""
        return self.make(One(self.item).parse([word]) for word in words)

    def __str__(self) -> str:
        return f"a list of {ITEMS[self.item][1]}"


@dataclass(frozen=True)
class Named:
    """A mapping of names to scalars; on a command line, NAME=N."""

    item: type
    many = True

    def read(self, value: Any) -> Any:
        """A mapping of text to scalars."""
        if not isinstance(value, dict):
            raise ValueError
        return {One(str).read(name): One(self.item).read(each) for name, each in value.items()}

    def parse(self, words: Sequence[str]) -> Any:
        """One name and scalar per word; the name may hold equals signs."""
        pairs = [word.rpartition("=") for word in words]
        if not all(name and equals for name, equals, _ in pairs):
            raise ValueError
        return {name: One(self.item).parse([each]) for name, _, each in pairs}

    def __str__(self) -> str:
        return f"a mapping of names to {ITEMS[self.item][1]} (NAME={ITEMS[self.item][2]})"


def kinds_of(annotation: str) -> tuple[tuple[Kind, ...], bool]:
    """The kinds that a type annotation allows, text last since every word is text, and whether it allows None.

    Args:
        annotation: such as ``Sequence[float] | str | None``; names that cannot be written down are passed over.
    """
    members = _members(ast.parse(annotation, mode="eval").body)
    kinds = dict.fromkeys(kind for member in members if (kind := _kind(member)) is not None)
    if One(os.PathLike) in kinds:
        kinds.pop(One(str), None)
    texts = (One(str), One(os.PathLike))
    return tuple(sorted(kinds, key=texts.__contains__)), "None" in members


def metavar(kinds: Sequence[Kind]) -> str:
    """Place holder for one word of the first kind."""
    scalar = ITEMS[kinds[0].item][2]
    return f"NAME={scalar}" if isinstance(kinds[0], Named) else scalar


def _members(node: ast.expr) -> list[str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_members(node.left), *_members(node.right)]
    return [ast.unparse(node)]


def _kind(member: str) -> Kind | None:
    if member in NAMES:
        return One(NAMES[member])
    outer, _, inner = member.rstrip("]").partition("[")
    items = [item for item in inner.split(", ") if item != "..."]
    if outer in LISTS and len(set(items)) == 1 and items[0] in NAMES:
        return Many(NAMES[items[0]], LISTS[outer])
    if outer in ("Mapping", "dict") and len(items) == 2 and items[0] == "str" and items[1] in NAMES:
        return Named(NAMES[items[1]])
    return None
