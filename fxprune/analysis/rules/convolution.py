"""Convolutions: rows of the weight are new channels, its columns read those of the input."""

from __future__ import annotations

import numpy as np

from fxprune.pytorch.call_targets import CONVOLUTIONS, TRANSPOSED

from ..call import Call
from ..channels import Axes, Ids
from ..labels import Label
from .pointwise import paired
from .products import read_by, stored
from .registry import rule

_UNKNOWN_GROUPS = "grouped convolution of an input without channels or with a computed weight"


@rule("convolution", reads_weights=(1,), factor_at=CONVOLUTIONS | TRANSPOSED)
def convolution(call: Call) -> Axes:
    """Convolution: the weight's columns read the input, and its rows are the output.

    A kernel with one position leaves the other axes as they are; a larger one mixes their positions.
    """
    label, on_x = stored(call.label(call.args[1]), 0), call.axes(call.args[0])
    space = _space(call, on_x[2:], label)
    rows = _made(call, on_x[1], label)
    call.tie(rows)
    rows = _with_bias(call, rows)
    _count_macs(call, (on_x[0], on_x[1], *space), label, rows)
    return (on_x[0], rows, *space)


def _made(call: Call, x: Ids | None, label: Label) -> Ids | None:
    """Contract the input with the weight, group by group; return the channels that this makes."""
    transposed, groups = bool(call.named("transposed")), int(call.named("groups"))
    columns, rows = (label.axes[0], label.axes[1]) if transposed else (label.axes[1], label.axes[0])
    if groups == 1:
        read_by(call, call.met(columns, call.label(call.args[0]), 1), columns, label)
    elif kernels_alone(call, x, label, groups):
        return groups_alone(call, x, label, groups)
    elif _is_made(label):
        inside = groups_of_samples(call, x, label, groups)
        return rows if not transposed or inside is None else _of_groups(call, inside, x, groups)
    elif transposed:
        return grouped_transposed(call, x, label, groups)
    else:
        grouped(call, x, label, groups)
    return rows


def _with_bias(call: Call, rows: Ids | None) -> Ids | None:
    """A bias has one number for each row."""
    bias = call.arg(2)
    if bias is None:
        return rows
    on_bias = call.axes(bias)[0]
    call.tie(on_bias)
    return rows if on_bias is None else paired(call, rows, on_bias)


def _count_macs(call: Call, on_x: Axes, label: Label, rows: Ids | None) -> None:
    """Each number of a weight is multiplied once per sample and position of one side."""
    (x, weight), transposed = call.args[:2], bool(call.named("transposed"))
    of = x if transposed else call.out
    # Of the two axes of a weight, the second has the channels of one group only.
    read, made = (on_x[1], label.axes[1]) if transposed else (label.axes[1], rows)
    macs = len(of) * of.shape[2:].numel() * weight.numel()
    call.state.notes.count_macs(call.node, macs, read, on_x[0], *on_x[2:], made)


def _space(call: Call, on_x: Axes, weight: Label) -> Axes:
    """Return the ids on the axes that the kernel runs over."""
    if not weight.is_parameter:  # which may have another size for other inputs
        call.freeze("a kernel axis of a computed weight", *on_x)
    call.freeze("a kernel axis of a computed weight" if not weight.is_parameter else "", *weight.axes[2:])
    kernel, stride = call.args[1].shape[2:], call.named("stride")
    if set(kernel) | set(stride) == {1} and not any((*call.named("padding"), *call.named("output_padding"))):
        return on_x
    call.freeze("convolved over", *on_x)
    return (None,) * len(on_x)


def _is_made(label: Label) -> bool:
    """Tell whether a weight is made from activations: its columns are tied, not summed."""
    return not label.is_parameter and not label.from_parameters


def kernels_alone(call: Call, x: Ids | None, label: Label, groups: int) -> bool:
    """Tell whether a weight that is no parameter, or a buffer, holds kernels of single groups."""
    rows = call.met(x, label, 0) if x is not None and call.args[1].shape[0] % groups == 0 else label.axes[0]
    one_each = min(call.args[0].shape[1], call.out.shape[1]) == groups
    fixed = label.constant or not label.is_parameter
    return fixed and label.axes[1] is None and one_each and x is not None and rows is not None


def groups_alone(call: Call, x: Ids | None, label: Label, groups: int) -> Ids | None:
    """Merge complete groups: equal inputs and kernels of groups give equal outputs.

    No column of a kernel is summed, so the weight may be computed in any way.
    """
    rows = label.axes[0] if label.axes[0] is not None else label.waiting(0)
    assert x is not None and rows is not None
    inside = call.unify_rows(x.reshape(groups, -1).T, "input channels of a group")
    call.unify(inside, call.unify_rows(rows.reshape(groups, -1).T, "kernels of a group"))
    call.tie(rows)
    _needs_count(call, x)
    if not call.named("transposed"):
        return rows
    return call.channels.copies(np.repeat(inside, call.args[1].shape[1]))


def groups_of_samples(call: Call, x: Ids | None, label: Label, groups: int) -> Ids | None:
    """Contract each sample with a kernel of its own: channel j of every group is one channel.

    Both operands are activations, so the narrow result lacks the size of the clusters as a factor. Returns the ids of
    axis 1 of the kernels, which one of them holds: the columns, or the rows of a transposed convolution.
    """
    many, one = label.axes[:2]
    transposed = bool(call.named("transposed"))
    columns, rows = (many, one) if transposed else (one, many)
    if x is None or columns is None:
        call.freeze(_UNKNOWN_GROUPS, x, rows, columns)
        return None
    inside = call.unify_rows(x.reshape(groups, -1), f"{groups} groups of {len(x) // groups} input channels")
    if many is not None:
        each = "input" if transposed else "output"
        first = call.unify_rows(many.reshape(groups, -1), f"{groups} groups of {len(many) // groups} {each} channels")
        columns = first if transposed else columns
    call.unify(inside, columns)
    call.needs_factor("a product of activations", columns)
    return one


def _of_groups(call: Call, rows: Ids, x: Ids | None, groups: int) -> Ids:
    """Return the ids of the rows of all groups: beside samples if those of the input are."""
    return call.channels.copies(np.tile(rows, groups), beside=x is not None and not call.channels.alone(x))


def grouped(call: Call, x: Ids | None, label: Label, groups: int) -> None:
    """Tie or read the weight of a grouped convolution.

    With one input or one output channel per group (depthwise), complete groups merge: the input channels and the output
    channels of a group are one channel. Otherwise channel j of every group is one channel, and columns read.
    """
    rows, columns = label.axes[:2]
    if x is None or rows is None or not label.is_parameter:
        call.freeze(_UNKNOWN_GROUPS, x, rows, columns)
    elif min(len(x), len(rows)) == groups or call.state.choices.take(call.node, np.concatenate([x, rows]), 2) == 1:
        call.freeze("columns of a convolution whose whole groups merge", columns)
        inside = call.unify_rows(x.reshape(groups, -1).T, "input channels of a group")
        call.unify(inside, call.unify_rows(rows.reshape(groups, -1).T, "output channels of a group"))
        _needs_count(call, x)
    else:
        inside = call.unify_rows(x.reshape(groups, -1), f"{groups} groups of {len(x) // groups} input channels")
        call.unify_rows(rows.reshape(groups, -1), f"{groups} groups of {len(rows) // groups} output channels")
        call.unify(inside, columns)
        call.read(columns, of=x)


def grouped_transposed(call: Call, x: Ids | None, label: Label, groups: int) -> Ids | None:
    """Return the output ids of a grouped transposed convolution.

    Its weight is [inner, outer / groups, ...]. With one input channel per group, complete groups merge: an input
    channel and its output channels are one channel. Otherwise channel j of every group is one channel, and all groups
    share the weight's rows along axis 1.
    """
    columns, rows = label.axes[:2]
    if x is None or columns is None or not label.is_parameter:
        call.freeze(_UNKNOWN_GROUPS, x, columns, rows)
        return None
    if len(x) == groups:
        call.freeze("rows of a convolution whose whole groups merge", rows)
        call.unify(x, columns)
        call.tie(columns)
        _needs_count(call, x)
        return call.channels.copies(np.repeat(x, call.args[1].shape[1]))
    inside = call.unify_rows(x.reshape(groups, -1), f"{groups} groups of {len(x) // groups} input channels")
    call.unify(np.tile(inside, groups), columns)
    call.read(columns, of=x)
    call.tie(rows)
    _needs_count(call, x)
    return None if rows is None else call.channels.copies(np.tile(rows, groups))


def _needs_count(call: Call, x: Ids) -> None:
    if not call.inside_layer:
        call.needs_rewrite("a number of groups", x)
