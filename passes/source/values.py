"""Write constants of a graph as Python text, from a closed list of types."""

from __future__ import annotations

import keyword
import math
from typing import Any

import torch

from .code import ATOM, UNARY, Bracket, Code, Hole, join, text

# Names that mean something else inside a class of ours.
RESERVED = frozenset(
    {"self", "torch", "nn", "F", "Tensor", "math", "Path", "load", "load_file", "super", "torchvision"}
)


class UnwritableError(ValueError):
    """A constant, function or name that has no place in the file."""


def is_name(word: str) -> bool:
    """Tell whether a word can be the name of an attribute or argument."""
    return word.isidentifier() and word.isascii() and not keyword.iskeyword(word) and not word.startswith("__")


def quoted(words: str) -> str:
    """Write text between double quotes, or as ``repr`` does where it holds some."""
    plain = repr(words)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


def number(value: int | float) -> str:
    """Write a number, also one that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def plain_value(value: Any) -> str:
    """Write a setting of a layer: None, a number, text, or a tuple of these.

    Raises:
        UnwritableError: it is something else.
    """
    if type(value) is tuple:
        inner = ", ".join(map(plain_value, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is str:
        return quoted(value)
    if type(value) in (int, float):
        return number(value)
    if value is None or type(value) is bool:
        return repr(value)
    raise UnwritableError(f"a constant of type {type(value).__name__}")


def constant(value: Any, role: str) -> Code:
    """Write any constant of a graph; int and float become holes.

    Raises:
        UnwritableError: its type is not in the closed list.
    """
    if type(value) in (int, float):
        special = isinstance(value, float) and not math.isfinite(value)
        if special:
            return text(number(value))
        return Code((Hole(value, role),), UNARY if value < 0 else ATOM)
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return text(str(value))
    if isinstance(value, torch.device):
        return text(f'torch.device("{value}")')
    if value is Ellipsis:
        return text("...")
    return text(plain_value(value))


def sequence(value: tuple[Any, ...] | list[Any], items: list[Code]) -> Code:
    """Write a tuple or list of expressions."""
    if isinstance(value, list):
        return join(Bracket("[", tuple(items), "]"))
    return join(Bracket("(", tuple(items), ",)" if len(items) == 1 else ")"))
