"""Reductions over channels: averages and sums need balance, maxima nothing."""

from __future__ import annotations

import math
import operator

import torch
from torch import fx

from fxprune.pytorch.call_targets import LENGTHS, LOGARITHMS, SOFTMAXES, SUMS, VARIANCES

from ..call import Call
from ..channels import Axes, Ids
from ..labels import tensors_in
from ..operation import unlabelled
from .pointwise import meet
from .registry import rule


@rule("mean.dim", "mean.default")
def mean(call: Call) -> Axes:
    """An average over channels stays exact if all clusters have one size."""
    call.balance("mean over channels", *_reduced(call))
    return _left(call)


@rule(
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "soft_margin_loss",
)  # fmt: skip
def loss(call: Call) -> Axes:
    """A pointwise loss of two operands, or its average, as of any reduction; a sum freezes."""
    axes, reduction = meet(call, tensors_in(call.args), call.args[0].shape), call.named("reduction")
    if reduction == 0:
        return axes
    if reduction == 1:
        call.balance("mean over channels", *axes)
    else:
        call.freeze("sum of a loss over channels", *axes)
    return ()


@rule("var.correction", "std.correction", "var_mean.correction", "std_mean.correction", factor_at=VARIANCES)
def variance(call: Call) -> list[Axes]:
    """Variance is an average, except for Bessel's correction, which must shrink with the axis."""
    if call.named("correction") == 0:
        call.balance("variance over channels", *_reduced(call))
    else:
        call.needs_factor("unbiased variance over channels", *_reduced(call))
    return [_left(call)] * len(call.outs)


@rule("amax", "amin", "aminmax", "max.default", "min.default", "any", "all", "_is_all_true")
def extreme(call: Call) -> list[Axes]:
    """A maximum over channels does not change without duplicates."""
    return [_left(call)] * len(call.outs)


@rule("max.dim", "min.dim")
def extreme_and_place(call: Call) -> list[Axes]:
    """A maximum does not change without duplicates, but its index does, and may not be read."""
    if not _only_values_are_read(call.node):
        call.freeze(f"{call.name} over channels, whose index is read", *_reduced(call))
    return [_left(call)] * 2


def _only_values_are_read(node: fx.Node | None) -> bool:
    if node is None or node.target not in ("max", "min", torch.max, torch.min):
        return False
    return all(
        (user.target is operator.getitem and user.args[1] in (0, -2))
        or (user.target is getattr and user.args[1] == "values")
        for user in node.users
    )


@rule("sum", factor_at=SUMS | {torch.einsum})
def total(call: Call) -> Axes:
    """A sum over channels needs the factor m, the size of a cluster."""
    call.needs_factor("sum over channels", *_reduced(call))
    return _left(call)


@rule("linalg_vector_norm", "norm", factor_at=LENGTHS)
def length(call: Call) -> Axes:
    """``(sum |x|^p)^(1/p)`` over channels needs the factor ``m^(1/p)``; ``p = inf`` needs none."""
    p = float(call.arg(1, 2))
    if p == 0:
        call.freeze("number of nonzero channels", *_reduced(call))
    elif not math.isinf(p):
        call.needs_factor(f"{p:g}-norm over channels", *_reduced(call), power=1 / p)
    return _left(call)


@rule("_cdist_forward", "_euclidean_dist", factor_at=LENGTHS)
def distances(call: Call) -> Axes:
    """``[b, p, c], [b, q, c] -> [b, p, q]``: each p-norm needs the factor ``m^(1/p)``."""
    (*lead, left), (*others, right), p = *map(call.axes, call.args[:2]), float(call.arg(2, 2))
    channels = call.unify(left, right)
    if (left is None) != (right is None) or p == 0:
        call.freeze("distance from positions that carry no channels", channels)
    elif not math.isinf(p):
        call.needs_factor(f"{p:g}-norm over channels", channels, power=1 / p)
    call.freeze("an axis with channels is treated as a batch", *lead[:-1], *others[:-1])
    return (*unlabelled(call.out)[:-2], lead[-1], others[-1])


@rule("logsumexp", factor_at=LOGARITHMS)
def log_of_sum(call: Call) -> Axes:
    """``log sum exp x`` over channels lacks the logarithm of the cluster size."""
    call.needs_factor("logsumexp over channels", *_reduced(call))
    return _left(call)


@rule("prod", "argmax", "argmin", "nansum", "median", "nanmedian", "mode")
def other(call: Call) -> list[Axes]:
    """Other reductions that depend on the number of channels freeze them."""
    call.freeze(f"{call.name} over channels", *_reduced(call))
    return [_left(call)] * len(call.outs)


@rule("_softmax", factor_at=SOFTMAXES)
def softmax(call: Call) -> Axes:
    """``exp x / sum exp x`` over channels is too large by the factor m, the size of a cluster."""
    call.needs_factor("softmax over channels", *_reduced(call), power=-1.0)
    return call.axes(call.args[0])


@rule("_log_softmax", factor_at=LOGARITHMS)
def log_softmax(call: Call) -> Axes:
    """``x - log sum exp x`` over channels is too large by the logarithm of the cluster size."""
    call.needs_factor("log_softmax over channels", *_reduced(call), power=-1.0)
    return call.axes(call.args[0])


@rule(
    "_safe_softmax", "cumsum", "cumsum_", "cumprod", "cumprod_", "cummax", "cummin", "logcumsumexp", "sort", "topk"
)  # fmt: skip
def along(call: Call) -> list[Axes]:
    """Each result along an axis depends on all its positions: channels there freeze."""
    axes = call.axes(call.args[0])
    call.freeze(f"{call.name.strip('_')} over channels", *(axes[call.named("dim")],) if axes else ())
    return [
        tuple(ids if ids is not None and len(ids) == size else None for ids, size in zip(axes, out.shape, strict=True))
        for out in call.outs
    ]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def transform(call: Call) -> Axes:
    """A Fourier transform mixes all positions of some axes: channels there freeze."""
    axes = call.axes(call.args[0])
    dims = {dim % len(axes) for dim in call.args[1]}
    call.freeze("a Fourier transform over channels", *(axes[dim] for dim in dims))
    return tuple(None if dim in dims else ids for dim, ids in enumerate(axes))


def _dims(call: Call) -> list[int]:
    """Return the axes that a reduction runs over; without a dim, all."""
    rank, dims = call.args[0].dim(), call.named("dim")
    if dims is None or dims == [] or dims == ():
        return list(range(rank))
    return [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)] if rank else []


def _reduced(call: Call) -> list[Ids | None]:
    """Return the ids on the axes that a reduction runs over."""
    axes = call.axes(call.args[0])
    return [axes[dim] for dim in _dims(call)]


def _left(call: Call) -> Axes:
    """Return the ids on the axes of a reduction's result; reduced axes have none."""
    axes, dims = call.axes(call.args[0]), _dims(call)
    if call.outs[0].dim() == len(axes):
        return tuple(None if dim in dims else ids for dim, ids in enumerate(axes))
    return tuple(ids for dim, ids in enumerate(axes) if dim not in dims)
