"""Try an operator that freezes with random inputs, to see if a merge had been exact.

Axis 1 of the first tensor holds channels, two of which are equal. A missing rule shows if the result follows a
permutation of the channels, or if it does not change without the duplicate.
"""

from __future__ import annotations

from typing import Any

import torch

from fxprune.pytorch.torch_private import OpOverload, op_arguments

CHANNELS = 5
SHAPES = ((2, CHANNELS, 7, 7), (2, CHANNELS, 7), (2, CHANNELS), (2, CHANNELS, 7, 7, 7))


def verdict(operator: OpOverload) -> str:
    """Return ``passes channels``, ``needs no duplicate``, ``mixes channels`` or ``not tried``."""
    found = {_at(operator, shape) for shape in SHAPES} - {"not tried"}
    for each in ("passes channels", "needs no duplicate", "mixes channels"):  # at any rank, a rule would gain
        if each in found:
            return each
    return "not tried"


def _at(operator: OpOverload, shape: tuple[int, ...]) -> str:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    x[:, 1] = x[:, 0]
    order = torch.tensor([3, 0, 4, 1, 2])
    try:
        wide, again, turned = (_run(operator, given) for given in (x, x, x.index_select(1, order)))
    except Exception:  # its arguments are not what was guessed
        return "not tried"
    if not isinstance(wide, torch.Tensor) or not wide.numel() or not _same(wide, again):
        return "not tried"
    axes = [dim for dim, size in enumerate(wide.shape) if size == CHANNELS]
    if any(_same(wide.index_select(dim, order), turned) for dim in axes):
        return "passes channels"
    try:
        narrow = _run(operator, x[:, 1:])
    except Exception:
        return "mixes channels"
    return "needs no duplicate" if _same(wide, narrow) else "mixes channels"


def _run(operator: OpOverload, x: torch.Tensor) -> Any:
    args, named, given = list[Any](), dict[str, Any](), False
    for argument in op_arguments(operator):
        kind = str(argument.type)
        if kind == "Tensor":
            value: Any = x.clone()
            if given:
                raise TypeError("more than one tensor")
            given = True
        elif argument.has_default_value():
            value = argument.default_value
        elif kind in _GUESSES:
            value = _GUESSES[kind]
        else:
            raise TypeError(kind)
        if argument.kwarg_only:
            named[argument.name] = value
        else:
            args.append(value)
    with torch.no_grad():
        return operator(*args, **named)


_GUESSES: dict[str, Any] = {
    "int": 2,
    "number": 2.0,
    "float": 2.0,
    "bool": False,
    "List[int]": [2, 2],
    "Optional[int]": None,
}


def _same(a: Any, b: Any) -> bool:
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape
    return tensors and torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
