"""Observe the operations that are linear in weights: what they read, and what they put out.

They are convolutions of any kind, and matrix products with a weight. They are seen below ``torch.nn``, as ATen
operators on the tensors of the network, so that no layer is named here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_composed,
    makes_storage,
    op_arguments,
    op_name,
    pytree,
    storage_id,
)


@dataclass(frozen=True, eq=False)
class Contraction:
    """An operation ``out = features(x) @ matrix + bias``, computed once.

    Attributes:
        weight: a view of the network's tensor.
        bias: a view of the network's tensor; None: none.
        x: what it reads.
        out: what it returned.
        options: of a convolution, by name; None: a matrix product ``x @ weight``.
        flipped: a product ``weight @ x``, read as its transpose.
    """

    weight: Tensor
    bias: Tensor | None
    x: Tensor
    out: Tensor
    options: Mapping[str, Any] | None = None
    flipped: bool = False

    @property
    def groups(self) -> int:
        """The number of separate matrices."""
        return int(self.options["groups"]) if self.options else 1

    @property
    def features(self) -> int:
        """The number of rows of each matrix: inputs of a group times positions of the kernel."""
        if self.options is None:
            return self.weight.shape[1 if self.flipped else 0]
        inputs = self.x.shape[1] // self.groups
        return inputs * math.prod(self.weight.shape[2:])

    def rows(self, value: Tensor) -> Tensor:
        """Reshape a value of the shape of ``out`` to [samples, outputs]."""
        if self.options is not None:
            return value.movedim(1, -1).reshape(-1, value.shape[1])
        return value.t() if self.flipped else value

    def sample(self, value: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw positions of ``out``: what the matrix reads there, and ``value`` there.

        Returns:
            [groups, samples, features] and [groups, samples, outputs of a group].
        """
        rows = self.rows(value)
        total = len(rows)
        picked = torch.arange(total)
        if count < total:
            picked = torch.randint(total, (count,), generator=generator)
        picked = picked.to(value.device)
        wanted = rows[picked].view(len(picked), self.groups, -1).transpose(0, 1)
        if self.options is None:
            x = self.x.t() if self.flipped else self.x
            return x[picked][None], wanted
        return self._patches(picked), wanted

    def _patches(self, picked: Tensor) -> Tensor:
        """Gather the input under the kernel at flat positions: [groups, samples, features]."""
        assert self.options is not None
        x, kernel = self.x, self.weight.shape[2:]
        stride, padding, dilation = (self._spatial(name) for name in ("stride", "padding", "dilation"))
        if self.options["transposed"]:
            # The same as a convolution of stride 1 with the flipped kernel, on an input with zeros in between.
            more = self._spatial("output_padding")
            x = _dilated(x, stride)
            before = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
            x = _padded(x, before, [b + m for b, m in zip(before, more, strict=True)])
            stride = [1] * len(stride)
        else:
            x = _padded(x, padding, padding)
        space = self.out.shape[2:]
        windows = x.as_strided(
            (len(x), x.shape[1], *space, *kernel),
            (
                *x.stride()[:2],
                *(s * step for s, step in zip(x.stride()[2:], stride, strict=True)),
                *(s * step for s, step in zip(x.stride()[2:], dilation, strict=True)),
            ),
        )
        sample, *places = torch.unravel_index(picked, (len(x), *space))
        patches = windows.movedim(1, 1 + len(space))[(sample, *places)]  # [samples, inputs, *kernel]
        return patches.reshape(len(picked), self.groups, -1).transpose(0, 1)

    def _spatial(self, name: str) -> list[int]:
        assert self.options is not None
        return list(self.options[name])

    def add(self, change: Tensor) -> None:
        """Add to the weight, in place."""
        if self.options is None:
            matrix = change[0]
            self.weight.add_(matrix.t() if self.flipped else matrix)
            return
        groups, _, outputs = change.shape
        kernel = self.weight.shape[2:]
        by_output = change.transpose(1, 2).reshape(groups, outputs, -1, *kernel)
        if self.options["transposed"]:
            by_input = by_output.transpose(1, 2).flip(*range(3, by_output.dim()))
            self.weight.add_(by_input.reshape(self.weight.shape))
        else:
            self.weight.add_(by_output.reshape(self.weight.shape))


class Observer(TorchDispatchMode):
    """Record the operations that are linear in a network's tensors, known by their storages."""

    def __init__(self, storages: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = storages
        self.seen: list[Contraction] = []
        self.elsewhere: set[int] = set()  # addresses of weights that other operations read

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record it if it is linear in a weight."""
        if is_composed(func):  # it comes whole in inference mode
            with self:
                return func.decompose(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        case = _CASES.get(op_name(func).split("::")[1])
        found = None
        if case is not None:
            # An alias of the result, whose shape stays as it is if the call goes on to change that in place.
            found = case(self, _named(func, args, kwargs or {}), out.detach())
        if found is not None:
            self.seen.append(found)
        elif makes_storage(func):
            self.elsewhere |= {each.data_ptr() for each in pytree.tree_leaves((args, kwargs)) if self.stored(each)}
        return out

    def stored(self, tensor: Any) -> bool:
        """Tell whether a tensor is a dense view of a weight of the network."""
        return (
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and storage_id(tensor) in self.storages
            and 0 not in tensor.stride()
        )


def _named(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    arguments = op_arguments(func)
    values: dict[str, Any] = {each.name: each.default_value for each in arguments if each.has_default_value()}
    return values | {each.name: value for each, value in zip(arguments, args, strict=False)} | kwargs


def _convolution(observer: Observer, call: dict[str, Any], out: Any) -> Contraction | None:
    weight, bias = call["weight"], call["bias"]
    if not observer.stored(weight) or (bias is not None and not observer.stored(bias)):
        return None
    return Contraction(weight, bias, call["input"], out, call)


def _mm(observer: Observer, call: dict[str, Any], out: Any) -> Contraction | None:
    left, right = call["self"], call["mat2"]
    if observer.stored(left) == observer.stored(right):
        return None
    if observer.stored(right):
        return Contraction(right, None, left, out)
    return Contraction(left, None, right, out, flipped=True)


def _addmm(observer: Observer, call: dict[str, Any], out: Any) -> Contraction | None:
    bias, left, right = call["self"], call["mat1"], call["mat2"]
    if call["alpha"] != 1 or call["beta"] != 1 or not observer.stored(right) or observer.stored(left):
        return None
    if not observer.stored(bias) or bias.dim() != 1:
        return None
    return Contraction(right, bias, left, out)


_CASES = {"convolution": _convolution, "mm": _mm, "addmm": _addmm}


def _dilated(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Put ``stride - 1`` zeros between neighbours."""
    space = [(length - 1) * step + 1 for length, step in zip(x.shape[2:], stride, strict=True)]
    result = x.new_zeros((*x.shape[:2], *space))
    every: list[Any] = [..., *(slice(None, None, step) for step in stride)]
    result[tuple(every)] = x
    return result


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    pads = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return F.pad(x, pads) if any(pads) else x
