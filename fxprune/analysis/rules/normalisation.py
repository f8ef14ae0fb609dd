"""Normalisations over batch and space tie their vectors; those over channels need balance."""

from __future__ import annotations

import torch

from ..call import Call
from ..channels import Axes, Ids
from ..operation import unlabelled
from .numbers import needs_number
from .pointwise import paired
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
    """Batch norm: weight, bias, running mean and running variance tie with axis 1."""
    x, axes = call.args[0], call.axes(call.args[0])
    vectors = _vectors(call, axes[1])
    call.tie(*vectors)
    if axes[1] is None:
        call.freeze("normalises positions that carry no channels", *vectors)
    for ids in vectors if axes[1] is not None else ():
        call.unify(axes[1], ids)
    if not isinstance(call.args[3], torch.Tensor) or call.named("training"):
        call.balance("batch statistics", axes[0], *axes[2:])
    return [axes, *((axes[1],) if out.shape == x.shape[1:2] else unlabelled(out) for out in call.outs[1:])]


def _vectors(call: Call, channels: Ids | None) -> list[Ids | None]:
    """Weight, bias and statistics have a number for each channel; computed statistics freeze it."""
    learned = [call.axes(vector)[0] for vector in call.args[1:3] if vector is not None]
    running = call.args[3:5] if isinstance(call.args[3], torch.Tensor) else ()
    statistics = [call.statistic(vector) for vector in running if vector is not None]
    if any(ids is None for ids in statistics):
        call.freeze("running statistics that are computed", channels)
    return learned + statistics


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(call: Call) -> list[Axes]:
    """Mean and variance over the last axes are exact if all clusters have one size."""
    x, shape = call.args[0], call.args[1]
    axes = list(call.axes(x))
    last = range(len(axes) - len(shape), len(axes))
    call.balance("layer normalisation", *(axes[dim] for dim in last))
    for vector in call.args[2:4]:
        if isinstance(vector, torch.Tensor):
            for dim, ids in zip(last, call.axes(vector), strict=True):
                axes[dim] = paired(call, axes[dim], ids)
    return [tuple(axes), *((*axes[: last.start], *(None for _ in shape)) for _ in call.outs[1:])]


# Group norms that are given the sizes of their input besides it.
_STATING_SIZES = (torch.native_group_norm, torch.ops.aten.native_group_norm, torch.ops.aten.native_group_norm.default)


@rule("native_group_norm")
def group_norm(call: Call) -> list[Axes]:
    """Group norm: channel j of every group is one channel, and clusters are balanced.

    With one channel per group, each is normalised alone, and only the number of groups changes.
    """
    axes = list(call.axes(call.args[0]))
    if axes[1] is not None:
        _normalise_groups(call, axes[1])
    call.balance("group normalisation", *axes[2:])
    if getattr(call.node, "target", None) in _STATING_SIZES:
        call.freeze("a size that the call states", *axes)
    for vector in call.args[1:3]:
        if vector is not None:
            axes[1] = paired(call, axes[1], call.axes(vector)[0])
    return _with_statistics(call, tuple(axes))


def _normalise_groups(call: Call, channels: Ids) -> None:
    """A group is averaged over, unless it is one channel: then the number of groups is a width."""
    groups = call.args[6]
    needs_number(call, "a number of groups", channels)
    if not groups == len(channels) > 1:
        rows = channels.reshape(groups, -1)
        call.balance("group normalisation", call.unify_rows(rows, f"{groups} normalisation groups"))
    elif not call.inside_layer:
        call.needs_rewrite("a number of groups", channels)


@rule("renorm", "renorm_")
def renorm(call: Call) -> Axes:
    """Each position of one axis is scaled by a norm over all others, which freeze."""
    axes, dim = call.axes(call.args[0]), call.args[2] % call.out.dim()
    call.freeze("a norm runs over them", *(ids for at, ids in enumerate(axes) if at != dim))
    return axes


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> list[Axes]:
    """Weight norm: directions and lengths tie along axis ``dim``; a norm runs over other axes.

    These freeze, except in the function of a stored weight, which stays wide.
    """
    directions, lengths = call.axes(call.args[0]), call.axes(call.args[1])
    dim = call.args[2]
    if call.node is not None:
        call.freeze("a norm runs over them", *(ids for at, ids in enumerate(directions) if at != dim))
    rows = call.unify(directions[dim], lengths[dim])
    axes = tuple(rows if at == dim else ids for at, ids in enumerate(directions))
    return _with_statistics(call, axes)


def _with_statistics(call: Call, axes: Axes) -> list[Axes]:
    """Return the axes of the normalised tensor and of the saved statistics, which are unused."""
    return [axes, *map(unlabelled, call.outs[1:])]
