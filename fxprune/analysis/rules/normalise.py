"""Normalisations: those over batch and space tie their vectors; those over channels are exact for balanced clusters."""

from __future__ import annotations

import torch

from ..call import Call
from ..channels import Ids
from ..state import Axes
from .reduce import average
from .registry import rule


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit_functional",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
)
def batch_norm(call: Call) -> list[Axes]:
    """Each channel by its own statistics: weight, bias, running mean and running variance tie with axis 1."""
    x, weight, bias = call.args[:3]
    mean, variance = call.args[3:5] if isinstance(call.args[3], torch.Tensor) else (None, None)
    axes = list(call.axes(x))
    vectors = [call.axes(v)[0] for v in (weight, bias) if v is not None]
    statistics = [call.walk.statistic(v) for v in (mean, variance) if v is not None and v.shape[0] > 1]
    if any(ids is None for ids in statistics):
        call.freeze(axes[1], "running statistics that are computed")
    vectors += statistics
    for ids in vectors:
        call.tie(ids)
        if axes[1] is None:
            call.freeze(ids, "normalises positions that carry no channels")
        elif ids is not None:
            call.channels.unite(axes[1], ids)
    if mean is None or (call.takes("training") and call.named("training")):
        average(call, [ids for dim, ids in enumerate(axes) if dim != 1], "batch statistics")
    return _with_statistics(call, tuple(axes))


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(call: Call) -> list[Axes]:
    """Mean and variance over the last axes: untouched by removing duplicates, if all clusters have one size."""
    x, shape = call.args[0], call.args[1]
    axes = list(call.axes(x))
    last = range(len(axes) - len(shape), len(axes))
    average(call, [axes[dim] for dim in last], "layer normalisation")
    for vector in call.args[2:4]:
        if isinstance(vector, torch.Tensor):
            for dim, ids in zip(last, call.axes(vector), strict=True):
                axes[dim] = _affine(call, axes[dim], ids)
    return _with_statistics(call, tuple(axes))


@rule("native_group_norm")
def group_norm(call: Call) -> list[Axes]:
    """Mean and variance per group of channels and space: channel j of every group is bundled, clusters balanced."""
    x, weight, bias, groups = call.args[0], call.args[1], call.args[2], call.args[6]
    axes = list(call.axes(x))
    if axes[1] is not None:
        if groups == len(axes[1]) > 1:
            call.freeze(axes[1], "group normalisation with one channel per group")
        else:
            rows = axes[1].reshape(groups, -1)
            average(call, [call.bundle(rows, f"{groups} normalisation groups")], "group normalisation")
    average(call, axes[2:], "group normalisation")
    for vector in (weight, bias):
        if vector is not None:
            axes[1] = _affine(call, axes[1], call.axes(vector)[0])
    return _with_statistics(call, tuple(axes))


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> list[Axes]:
    """Each row by its own norm: directions and lengths tie along axis ``dim``; along the others the norm is one sum."""
    directions, lengths = call.axes(call.args[0]), call.axes(call.args[1])
    dim = call.arg(2, 0)
    for at, ids in enumerate(directions):
        call.freeze(ids if at != dim else None, "a norm runs over them")
    rows = call.same(directions[dim], lengths[dim])
    axes = tuple(rows if at == dim else ids for at, ids in enumerate(directions))
    return _with_statistics(call, axes)


def _affine(call: Call, x: Ids | None, ids: Ids | None) -> Ids | None:
    if x is None or ids is None:
        for each in (x, ids):
            call.freeze(each, "meets positions that carry no channels")
        return x
    return call.same(x, ids)


def _with_statistics(call: Call, axes: Axes) -> list[Axes]:
    """The normalised tensor, then the saved statistics, which nobody reads."""
    outs = call.out if isinstance(call.out, (tuple, list)) else [call.out]
    return [axes, *((None,) * out.dim() for out in outs[1:])]
