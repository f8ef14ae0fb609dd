"""Reductions: over other axes channels pass; over channels averages and sums need balance, maxima nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import fx

from fxprune.common.rewritable import LENGTHS, LOGARITHMS, SOFTMAXES, SUMS, VARIANCES

from ..call import Call
from ..channels import Ids
from ..state import Axes
from .registry import rule


def average(call: Call, axes: Sequence[Ids | None], why: str) -> None:
    """An average over these axes is unchanged by removing duplicates, if all clusters have one size."""
    for ids in axes:
        call.balance(ids, why)


@rule("mean.dim", "mean.default")
def mean(call: Call) -> Axes:
    """Average over some axes."""
    dims = _dims(call)
    average(call, [call.axes(call.args[0])[dim] for dim in dims], "mean over channels")
    return _reduced(call, dims)


@rule("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def variance(call: Call) -> list[Axes]:
    """Variance over some axes: an average, but for Bessel's correction, which must shrink with the axis."""
    dims, correction = _dims(call), call.named("correction")
    for dim in dims:
        ids = call.axes(call.args[0])[dim]
        if correction == 0:
            call.balance(ids, "variance over channels")
        else:
            call.scale(ids, "unbiased variance over channels", VARIANCES)
    count = len(call.out) if isinstance(call.out, (tuple, list)) else 1
    return [_reduced(call, dims)] * count


@rule("amax", "amin", "max.default", "min.default", "any", "all")
def extreme(call: Call) -> Axes:
    """The largest of some values is unchanged by removing duplicates."""
    return _reduced(call, _dims(call))


@rule("max.dim", "min.dim")
def extreme_and_place(call: Call) -> list[Axes]:
    """The largest value is unchanged by removing duplicates; its place among them is not, and nobody may read it."""
    dims = _dims(call)
    if not _only_values_are_read(call.walk.node):
        for dim in dims:
            call.freeze(call.axes(call.args[0])[dim], f"{_name(call)} over channels, whose index is read")
    return [_reduced(call, dims)] * 2


def _only_values_are_read(node: fx.Node | None) -> bool:
    if node is None or node.target not in ("max", "min", torch.max, torch.min):
        return False
    return all(
        (user.target is operator.getitem and user.args[1] in (0, -2))
        or (user.target is getattr and user.args[1] == "values")
        for user in node.users
    )


@rule("sum")
def total(call: Call) -> Axes:
    """A sum over channels is too small by the cluster size when duplicates go."""
    dims = _dims(call)
    for dim in dims:
        call.scale(call.axes(call.args[0])[dim], "sum over channels", SUMS | {torch.einsum})
    return _reduced(call, dims)


@rule("linalg_vector_norm", "norm")
def length(call: Call) -> Axes:
    """``(sum |x|^p)^(1/p)`` over channels is too small by ``m^(1/p)``; the largest, ``p = inf``, is what it was."""
    dims, p = _dims(call), float(call.arg(1, 2))
    for dim in dims:
        ids = call.axes(call.args[0])[dim]
        if p == 0:
            call.freeze(ids, "number of nonzero channels")
        elif not math.isinf(p):
            call.scale(ids, f"{p:g}-norm over channels", LENGTHS, 1 / p)
    return _reduced(call, dims)


@rule("logsumexp")
def log_of_sum(call: Call) -> Axes:
    """``log sum exp x`` over channels is too small by the logarithm of the cluster size when duplicates go."""
    dims = _dims(call)
    for dim in dims:
        call.scale(call.axes(call.args[0])[dim], "logsumexp over channels", LOGARITHMS)
    return _reduced(call, dims)


@rule("prod", "argmax", "argmin", "nansum")
def other(call: Call) -> list[Axes]:
    """What else depends on how many channels there are: they freeze."""
    dims = _dims(call)
    for dim in dims:
        call.freeze(call.axes(call.args[0])[dim], f"{_name(call)} over channels")
    count = len(call.out) if isinstance(call.out, (tuple, list)) else 1
    return [_reduced(call, dims)] * count


@rule("_softmax")
def softmax(call: Call) -> Axes:
    """``exp x / sum exp x`` over channels is too large by the cluster size when duplicates go."""
    axes = call.axes(call.args[0])
    if axes:
        call.scale(axes[call.named("dim")], "softmax over channels", SOFTMAXES, -1.0)
    return axes


@rule("_log_softmax")
def log_softmax(call: Call) -> Axes:
    """``x - log sum exp x`` over channels is too large by the logarithm of the cluster size when duplicates go."""
    axes = call.axes(call.args[0])
    if axes:
        call.scale(axes[call.named("dim")], "log_softmax over channels", LOGARITHMS, -1.0)
    return axes


@rule("_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk")
def along(call: Call) -> list[Axes]:
    """Each result along one axis depends on all positions of it: channels there freeze, others pass."""
    x = call.args[0]
    axes = list(call.axes(x))
    if axes:
        call.freeze(axes[call.named("dim")], f"{_name(call)} over channels")
    outs = call.out if isinstance(call.out, (tuple, list)) else [call.out]
    return [
        tuple(ids if ids is not None and len(ids) == size else None for ids, size in zip(axes, out.shape, strict=True))
        for out in outs
    ]


def _name(call: Call) -> str:
    return call.op._schema.name.split("::")[1].strip("_")


def _dims(call: Call) -> list[int]:
    """Axes that a reduction runs over; none named means all."""
    rank = call.args[0].dim()
    dims = call.named("dim") if call.takes("dim") else None
    if dims is None or dims == [] or dims == ():
        return list(range(rank))
    return [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)] if rank else []


def _reduced(call: Call, dims: list[int]) -> Axes:
    axes = call.axes(call.args[0])
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    if out.dim() == len(axes):
        return tuple(None if dim in dims else ids for dim, ids in enumerate(axes))
    return tuple(ids for dim, ids in enumerate(axes) if dim not in dims)
