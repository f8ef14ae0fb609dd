"""Reductions: over other axes channels pass; over channels averages need balance, maxima nothing, sums freeze."""

from __future__ import annotations

from collections.abc import Sequence

from fxprune.call import Call
from fxprune.channels import Ids
from fxprune.rules.registry import rule
from fxprune.walk import Axes


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
    """Variance over some axes: an average only without Bessel's correction."""
    dims, correction = _dims(call), call.named("correction")
    for dim in dims:
        ids = call.axes(call.args[0])[dim]
        if correction == 0:
            call.balance(ids, "variance over channels")
        else:
            call.freeze(ids, "unbiased variance over channels")
    count = len(call.out) if isinstance(call.out, (tuple, list)) else 1
    return [_reduced(call, dims)] * count


@rule("amax", "amin", "max.default", "min.default", "any", "all")
def extreme(call: Call) -> Axes:
    """The largest of some values is unchanged by removing duplicates."""
    return _reduced(call, _dims(call))


@rule("sum", "prod", "linalg_vector_norm", "norm", "logsumexp", "argmax", "argmin", "nansum", "max.dim", "min.dim")
def total(call: Call) -> list[Axes]:
    """A sum over channels changes when duplicates go: they freeze."""
    dims = _dims(call)
    for dim in dims:
        call.freeze(call.axes(call.args[0])[dim], f"{_name(call)} over channels")
    count = len(call.out) if isinstance(call.out, (tuple, list)) else 1
    return [_reduced(call, dims)] * count


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk")
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
