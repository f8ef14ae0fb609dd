"""Operators that sum products over an axis: with a weight, its columns read; with another activation, nobody does."""

from __future__ import annotations

import math

import numpy as np
import torch

from fxprune.common.rewritable import ATTENTION, PRODUCTS

from ..call import Call
from ..channels import Ids
from ..state import Axes, Label
from .registry import rule


@rule("convolution", weighs=True)
def convolution(call: Call) -> Axes:
    """Sum over input channels of weight times input: weight columns read the input, weight rows are the output.

    A kernel of one position leaves the other axes as they are; any larger one mixes their positions.
    """
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    transposed, groups = bool(call.named("transposed")), int(call.named("groups"))
    inner, outer = (
        (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    )
    label, on_x = call.label(weight), call.axes(x)
    call.weigh(label)
    for ids in (*on_x[2:], *label.axes[2:]):
        call.freeze(ids if ids is not None and not label.raw else None, "a kernel axis of a computed weight")
    passes = (
        not transposed and set(weight.shape[2:]) | set(call.named("stride")) == {1} and not any(call.named("padding"))
    )
    for ids in () if passes else on_x[2:]:
        call.freeze(ids, "convolved over")
    if groups == 1:
        columns, rows = (label.axes[0], label.axes[1]) if transposed else (label.axes[1], label.axes[0])
        read_by(call, on_x[1], columns, label)
        axes = (columns, rows)
    elif transposed:
        rows = grouped_transposed(call, on_x[1], label, groups)
        axes = (label.axes[0], rows)
    else:
        rows = grouped(call, on_x[1], label, groups, inner, outer)
        axes = (label.axes[1], rows)
    call.tie(rows)
    if bias is not None:
        on_bias = call.axes(bias)[0]
        call.tie(on_bias)
        rows = call.same(rows, on_bias) if rows is not None else _unpaired(call, on_bias)
    kernel = math.prod(weight.shape[2:])
    positions = x.numel() // max(inner, 1) if transposed else call.out.numel() // max(outer, 1)
    call.work(positions * kernel * inner * outer // groups, *axes, on_x[0])
    return (on_x[0], rows, *(on_x[2:] if passes else (None,) * (call.out.dim() - 2)))


def grouped(call: Call, x: Ids | None, label: Label, groups: int, inner: int, outer: int) -> Ids | None:
    """Ids of the output of a grouped convolution, as long as the weight's axis 0.

    With one input or one output channel per group (depthwise), whole groups merge: the input channels and the
    output channels of a group are one channel. Otherwise channel j of every group is one channel, and columns read.
    """
    columns, rows = label.axes[1], label.axes[0]
    per_in, per_out = inner // groups, outer // groups
    if x is None or rows is None or not label.raw:
        for ids in (x, rows, columns):
            call.freeze(ids, "grouped convolution of an input without channels or with a computed weight")
        return rows
    if min(per_in, per_out) == 1 or call.choose(np.concatenate([x, rows]), 2) == 1:
        call.freeze(columns, "columns of a convolution whose whole groups merge")
        inside = call.bundle(x.reshape(groups, per_in).T, "input channels of a group")
        outside = call.bundle(rows.reshape(groups, per_out).T, "output channels of a group")
        call.channels.unite(inside, outside)
        call.literal(None if call.walk.inside else x, "a number of groups")
        return rows
    inside = call.bundle(x.reshape(groups, per_in), f"{groups} groups of {per_in} input channels")
    call.bundle(rows.reshape(groups, per_out), f"{groups} groups of {per_out} output channels")
    assert columns is not None
    call.channels.unite(inside, columns)
    call.read(columns)
    return rows


def grouped_transposed(call: Call, x: Ids | None, label: Label, groups: int) -> Ids | None:
    """Ids of the output of a grouped transposed convolution, from its weight [inner, outer / groups, ...].

    With one input channel per group, whole groups merge: an input channel and its output channels are one channel.
    Otherwise channel j of every group is one channel, and the weight's rows along axis 1 serve every group.
    """
    columns, rows = label.axes[:2]
    if x is None or columns is None or not label.raw:
        for ids in (x, columns, rows):
            call.freeze(ids, "grouped convolution of an input without channels or with a computed weight")
        return None
    if len(x) == groups:
        call.freeze(rows, "rows of a convolution whose whole groups merge")
        call.channels.unite(x, columns)
        call.tie(columns)
        call.literal(None if call.walk.inside else x, "a number of groups")
        count = call.args[1].shape[1]
        return x if count == 1 else call.channels.copies(np.repeat(x, count))
    inside = call.bundle(x.reshape(groups, -1), f"{groups} groups of {len(x) // groups} input channels")
    call.channels.unite(np.tile(inside, groups), columns)
    call.read(columns)
    call.literal(None if call.walk.inside else x, "a number of groups")
    call.tie(rows)
    return None if rows is None else call.channels.copies(np.tile(rows, groups))


def read_by(call: Call, x: Ids | None, columns: Ids | None, weight: Label) -> None:
    """An activation's channels are read by a weight's columns."""
    if x is None or columns is None:
        call.freeze(x, "read by a weight without channels there")
        call.freeze(columns, "reads positions that carry no channels")
    elif not weight.raw:
        call.channels.unite(x, columns)
        call.freeze(x, "read by a weight that is computed, not stored")
    else:
        call.channels.unite(x, columns)
        call.read(columns)


def contract(call: Call, left: Label, right: Label, on_left: Ids | None, on_right: Ids | None) -> None:
    """Sum of products over one axis of each operand, with their ids."""
    if left.raw and right.raw:
        for ids in (on_left, on_right):
            call.freeze(ids, "product of two parameters")
    elif left.raw:
        read_by(call, on_right, on_left, left)
    elif right.raw:
        read_by(call, on_left, on_right, right)
    elif on_left is not None and on_right is not None:
        call.channels.unite(on_left, on_right)
        call.scale(on_left, "a product of activations", PRODUCTS | ATTENTION)
    else:
        for ids in (on_left, on_right):
            call.freeze(ids, "summed against positions that carry no channels")


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "dot", weighs=True)
def matmul(call: Call) -> Axes:
    """Matrix product ``[b, p, q] @ [b, q, r]``, with an addend where the operator has one."""
    added = call.op._schema.name.split("::")[1] in ("addmm", "baddbmm")
    a, b = call.args[1:3] if added else call.args[:2]
    left, right = call.label(a), call.label(b)
    for label in (left, right):
        call.weigh(label)
    contracted_r = right.axes[-2] if b.dim() > 1 else right.axes[-1]
    contract(call, left, right, left.axes[-1], contracted_r)
    rows = left.axes[-2] if a.dim() > 1 else None
    columns = right.axes[-1] if b.dim() > 1 else None
    for label, ids in ((left, rows), (right, columns)):
        call.tie(ids if label.raw else None)
    batch = _batch(call, left, right) if a.dim() == 3 else ()
    out = call.out
    axes: Axes = (*batch, *((rows,) if a.dim() > 1 else ()), *((columns,) if b.dim() > 1 else ()))
    call.work(out.numel() * a.shape[-1], left.axes[-1] if left.axes[-1] is not None else contracted_r, *axes)
    return _add(call, call.args[0], axes, out) if added else axes


@rule("vdot", weighs=True)
def vdot(call: Call) -> Axes:
    """One number, the sum of products of two vectors; where a stored weight is computed from it, that stays wide."""
    if call.walk.node is not None:
        left, right = (call.label(vector) for vector in call.args[:2])
        contract(call, left, right, left.axes[0], right.axes[0])
    return ()


def _batch(call: Call, left: Label, right: Label) -> Axes:
    on_left, on_right = left.axes[0], right.axes[0]
    if (on_left is None) != (on_right is None):
        call.freeze(on_left if on_right is None else on_right, "batched product with positions without channels")
    for label, ids in ((left, on_left), (right, on_right)):
        call.tie(ids if label.raw else None)
    if on_left is None or on_right is None:
        # As where operands meet position by position: a parameter's axis may be heads or tokens.
        return (None if (left if on_right is None else right).parametric else call.same(on_left, on_right),)
    return (call.same(on_left, on_right),)


def _add(call: Call, addend: torch.Tensor, axes: Axes, out: torch.Tensor) -> Axes:
    """Add a bias, broadcast from the right."""
    label = call.label(addend)
    result = list(axes)
    for behind in range(1, addend.dim() + 1):
        ids = label.axes[-behind]
        if addend.shape[-behind] != out.shape[-behind] or addend.shape[-behind] == 1:
            continue
        call.tie(ids if label.raw else None)
        if ids is None or result[-behind] is None:
            call.freeze(ids, "meets positions that carry no channels")
            call.freeze(result[-behind], "meets positions that carry no channels")
        else:
            result[-behind] = call.same(result[-behind], ids)
    return tuple(result)


def _unpaired(call: Call, ids: Ids | None) -> Ids | None:
    call.freeze(ids, "meets positions that carry no channels")
    return None


@rule("embedding", weighs=True)
def embedding(call: Call) -> Axes:
    """Rows of a table by index: its columns are the result's channels, its rows are no channels."""
    table, index = call.args[0], call.args[1]
    rows, columns = call.axes(table)
    call.freeze(rows, "rows of a table that an index picks")
    call.tie(columns)
    return (*(None for _ in index.shape), columns)
