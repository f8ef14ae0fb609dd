"""Say why a network does not run on inputs, and name the argument that does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fxprune.errors import kind_and_line
from fxprune.pytorch.precision import dtype_name

from .inputs import Inputs, names_by_place

# What PyTorch's parsers say where an argument is no tensor: they list all that they would take.
_PARSER = re.compile(r"received an invalid combination|must be Tensor|must be tuple of Tensors|has no attribute")
_KINDS = re.compile(r"scalar type|should be the same|same dtype|dtype|not implemented for '\w+'", re.IGNORECASE)
_INTEGERS = re.compile(r"\b(long|u?int\d*|char|byte|short|bool(ean)?)\b", re.IGNORECASE)
_LOW = re.compile(r"half|bfloat|float16", re.IGNORECASE)
_IMAGES = (torch.float32, torch.float64)


def unfit(network: Any, inputs: Inputs, error: BaseException, remedy: str = "", *, at: str = "") -> str:
    """Return ``does not run on inputs [...]``, with reason, place and what to give instead."""
    given = dict(zip(names_of(network, inputs), inputs.values() if isinstance(inputs, dict) else inputs))
    kind, _, said = kind_and_line(error).rstrip(".").partition(": ")
    said, remedy = f"{kind}{at}: {said}", remedy or "Give example inputs that the model accepts"
    if others := not_tensors([*given], given.values()):
        what = f"{others}, not a tensor"
        said = f"{what} ({kind}{at})" if _PARSER.search(said) else f"{said}, where {others}"
        remedy = "Give tensors, as `torch.as_tensor(...)` makes them" if _PARSER.search(str(error)) else remedy
    elif isinstance(error, RuntimeError) and _KINDS.search(said):
        unusual = [(name, x) for name, x in given.items() if isinstance(x, torch.Tensor) and _is_unusual(x, said)]
        hints = [f"`{name}` is {dtype_name(x.dtype)}: give `{name}.{_remedy(said)}()`" for name, x in unusual]
        remedy = " and ".join(hints) or remedy
    return f"does not run on inputs [{', '.join(map(_described, given.values()))}]: {said}. {remedy}."


def names_of(network: Any, inputs: Inputs) -> list[str]:
    """Name the arguments of a network that are given."""
    if isinstance(inputs, dict):
        return [*map(str, inputs)]
    forward: Callable[..., Any] = getattr(network, "forward", network)
    try:
        return names_by_place(forward, len(inputs))
    except (TypeError, ValueError):  # some callables have no signature
        return [f"input_{place}" for place in range(len(inputs))]


def not_tensors(names: Iterable[str], values: Iterable[Any]) -> str:
    """Name the arguments that are no tensors, and say what they are; nothing if all are."""
    given = zip(names, values)
    others = [f"argument `{name}` is {_described(x)}" for name, x in given if not isinstance(x, torch.Tensor)]
    return " and ".join(others)


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        kind = "" if value.dtype in _IMAGES else f"{dtype_name(value.dtype)} "
        return f"{kind}{tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _remedy(said: str) -> str:
    return "long" if re.search(r"Long|Int\b", said.partition("but got")[0]) else "float"


def _is_unusual(x: torch.Tensor, said: str) -> bool:
    """Tell whether a tensor has a type that the error names, and that images have not."""
    if _remedy(said) == "long":
        return x.dtype not in (torch.int64, torch.int32)
    named = _LOW if x.is_floating_point() else _INTEGERS
    return x.dtype not in _IMAGES and named.search(said) is not None
