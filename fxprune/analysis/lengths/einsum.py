"""An axis of an einsum is as long as the axes of its letter.

PyTorch views the operands as matrices, so that batch and space lie beside channels and are parted again; the letters
tell which lengths the result has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.call_targets import call_kind

from ..channels import Channels
from ..labels import Labels, tensors_in
from .factors import factors_of, is_fixed, longest_known, told


def settle_lengths(node: fx.Node, value: Any, env: Mapping[fx.Node, Any], channels: Channels, labels: Labels) -> None:
    """Give the result of an einsum the lengths that its letters tell; ``env`` has its operands."""
    if call_kind(node) is not torch.einsum or not isinstance(node.args[0], str):
        return
    operands = tensors_in(fx.map_arg(node.args, env.__getitem__))
    *given, result = letters_of(node.args[0], [*(x.dim() for x in operands), value.dim()])
    known = [
        (letter, size, factors)
        for x, letters in zip(operands, given, strict=True)
        for letter, size, factors in zip(letters, x.shape, factors_of(channels, labels.of(x), x.shape), strict=True)
    ]
    found = [
        longest_known([factors for *at, factors in known if at == [letter, size]], size)
        for letter, size in zip(result, value.shape, strict=True)
    ]
    label = labels.of(value)
    axes = tuple(
        channels.apart(ids) if ids is not None and is_fixed(factors) and not channels.alone(ids) else ids
        for ids, factors in zip(label.axes, found, strict=True)
    )
    labels.attach(value, dataclasses.replace(label, axes=axes, factors=told(channels, found, axes)))


def letters_of(equation: str, ranks: Sequence[int]) -> list[list[str]]:
    """Name the axes of each operand of an einsum, and of its result.

    An ellipsis stands for axes that are counted from behind.

    >>> letters_of("...ij,jk", [3, 2, 3])
    [['1', 'i', 'j'], ['j', 'k'], ['1', 'i', 'k']]
    """
    given, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        once = sorted(letter for letter in set(given) - {",", "."} if given.count(letter) == 1)
        result = "".join(["..."[: 3 * ("..." in given)], *once])
    return [_spread(term, rank) for term, rank in zip([*given.split(","), result], ranks, strict=True)]


def _spread(term: str, rank: int) -> list[str]:
    front, _, behind = term.partition("...")
    return [*front, *map(str, range(rank - len(front) - len(behind), 0, -1)), *behind]
