"""Products: a weight's columns are readers; two activations need clusters of one size.

Only the columns of a stored weight can be summed: :mod:`fxprune.analysis.computed_weights` stores what is computed.
"""

from __future__ import annotations

import dataclasses

import torch

from fxprune.pytorch.call_targets import ATTENTION, PRODUCTS

from ..call import Call, Rule
from ..channels import Axes, Ids
from ..labels import Label
from .pointwise import paired
from .registry import rule
from .uniformity import met_axis

_IN_GROUPS = "rows or columns that offsets divide into groups"


def read_by(call: Call, x: Ids | None, columns: Ids | None, weight: Label) -> None:
    """Let a weight's columns read an activation's channels."""
    if x is None or columns is None:
        call.freeze("read by a weight without channels there", x)
        call.freeze("reads positions that carry no channels", columns)
        return
    call.unify(x, columns)
    if weight.is_parameter:
        call.read(columns, of=x)
    else:
        call.freeze("read by a weight that is computed, not stored", x)


def contract(call: Call, left: Label, right: Label, on_left: Ids | None, on_right: Ids | None) -> None:
    """Contract one axis of each operand, given their ids: a sum of products."""
    if left.is_parameter and right.is_parameter and (call.node is None or on_left is None or on_right is None):
        call.freeze("product of two parameters", on_left, on_right)
    elif left.is_parameter and right.is_parameter:
        # The first is taken for an activation, such as a query that is learned.
        call.unify(on_left, on_right)
        call.tie(on_left)
        call.read(on_right, of=on_left)
    elif left.is_parameter:
        read_by(call, on_right, on_left, left)
    elif right.is_parameter:
        read_by(call, on_left, on_right, right)
    elif on_left is not None and on_right is not None:
        call.unify(on_left, on_right)
        call.needs_factor("a product of activations", on_left)
    else:
        call.freeze("summed against positions that carry no channels", on_left, on_right)


def multiplied(call: Call, _: Rule) -> list[Axes]:
    """Rows and columns of a product wait where those of its operands do; others freeze."""
    left, right = (call.label(x) for x in call.args[:2])
    rank, end = len(left.axes), -min(len(right.axes), 2)
    lead = [met_axis(call, list(call.args[:2]), 3, call.out.shape[0])] if rank == 3 else []
    gone = [left.waiting(-1), right.waiting(end)]
    gone += [label.waiting(0) for label in (left, right) if lead and lead[0] is None]
    call.freeze("a product over an axis that was expanded", *(ids for ids in gone if id(ids) not in call.woken))
    rows, columns = [left.waiting(-2)] if rank > 1 else [], [right.waiting(-1)] if len(right.axes) > 1 else []
    return [(*lead, *rows, *columns)]


@rule("mm", "bmm", "mv", "dot", reads_weights=(0, 1), factor_at=PRODUCTS | ATTENTION, uniform=multiplied)
def matmul(call: Call) -> Axes:
    """Matrix product ``[b, p, q] @ [b, q, r]``; a stored weight's own number stays wide."""
    return product(call, call.args[0], call.args[1]) if call.node is not None or call.out.dim() else ()


@rule("addmm", "baddbmm", "addmv", reads_weights=(1, 2), factor_at=PRODUCTS | ATTENTION)
def added_matmul(call: Call) -> Axes:
    """Matrix product plus a broadcast addend, the first argument."""
    result = list(product(call, *call.args[1:3]))
    addend = call.args[0]
    label = call.label(addend)
    for behind in range(1, addend.dim() + 1):
        if addend.shape[-behind] == call.out.shape[-behind] > 1:
            ids = label.axes[-behind]
            call.tie(ids if label.is_parameter else None)
            result[-behind] = paired(call, result[-behind], ids)
    return tuple(result)


@rule("vdot", reads_weights=(), factor_at=PRODUCTS | ATTENTION)
def vdot(call: Call) -> Axes:
    """Inner product of two vectors; in the function of a stored weight, it stays wide."""
    if call.node is not None:
        left, right = (call.label(vector) for vector in call.args[:2])
        contract(call, left, right, left.axes[0], right.axes[0])
    return ()


def product(call: Call, a: torch.Tensor, b: torch.Tensor) -> Axes:
    """Matrix product of the last two axes, or of a vector."""
    left, right = call.label(a), call.label(b)
    end = -min(b.dim(), 2)
    inner = call.met(right.axes[end], left, -1), call.met(left.axes[-1], right, end)
    contract(call, stored(left, -1), stored(right, end), *inner)
    rows, columns = left.axes[-2:-1], right.axes[-1:] if b.dim() > 1 else ()
    for label, outer in ((left, rows), (right, columns)):
        call.tie(*(outer if label.is_parameter else ()))
    axes = (*(_batch(call, left, right) if a.dim() == 3 else ()), *rows, *columns)
    # An axis of equal numbers is as long as the channels that it meets later.
    ends = [_or_waiting(left, -2) for _ in rows] + [_or_waiting(right, -1) for _ in columns]
    lead = [_or_waiting(left, 0) if ids is None else ids for ids in axes[: len(axes) - len(ends)]]
    call.state.notes.count_macs(
        call.node, call.out.numel() * a.shape[-1], inner[0] if inner[0] is not None else inner[1], *lead, *ends
    )
    return axes


def _or_waiting(label: Label, axis: int) -> Ids | None:
    ids = label.axes[axis]
    return label.waiting(axis) if ids is None else ids


def stored(label: Label, axis: int) -> Label:
    """Return the label as a computed one if the axis repeats one number: no columns to sum."""
    return label if label.waiting(axis) is None else dataclasses.replace(label, is_parameter=False)


def _batch(call: Call, left: Label, right: Label) -> Axes:
    on_left, on_right = call.met(right.axes[0], left, 0), call.met(left.axes[0], right, 0)
    for label in (left, right):
        call.tie(label.axes[0] if label.is_parameter else None)
    if (on_left is None) != (on_right is None):
        call.freeze("batched product with positions without channels", on_left, on_right)
        # As for pointwise operators: a parameter's axis may be heads or tokens.
        if (left if on_right is None else right).from_parameters:
            return (None,)
    return (call.unify(on_left, on_right),)


@rule("_trilinear", reads_weights=(1,))
def bilinear(call: Call) -> Axes:
    """``sum w[k, i, j] x[i] y[j]``: columns along two axes read, and rows are the output."""
    (*_, left), weight, (*_, right) = call.axes(call.args[0]), call.label(call.args[1]), call.axes(call.args[2])
    rows, *columns = weight.axes
    for x, read in zip((left, right), columns, strict=True):
        read_by(call, x, read, weight)
    call.tie(rows)
    return (paired(call, call.axes(call.args[0])[0], call.axes(call.args[2])[0]), rows)


@rule("_grouped_mm", "transformers::grouped_mm_fallback", reads_weights=(0, 1))
def grouped_product(call: Call) -> Axes:
    """Group by group, ``[s, q] @ [g, q, r]``, ``[g, p, q] @ [q, s]`` or ``[p, s] @ [s, r]``.

    Offsets say which of the ``s`` belong to which of ``g`` groups: these two axes carry no channels.
    """
    a, b, bias = call.args[0], call.args[1], call.arg(3)
    axes = product(call, a, b) if a.dim() == b.dim() == 3 else _jagged(call)
    if bias is not None:  # which no PyTorch takes yet
        call.freeze("a bias of groups", *axes, *call.axes(bias))
    return axes


def _jagged(call: Call) -> Axes:
    """Multiply where at least one operand is divided by offsets."""
    a, b = call.args[:2]
    left, right = call.label(a), call.label(b)
    rows, columns = left.axes[-2], right.axes[-1]
    inner = call.met(right.axes[-2], left, -1), call.met(left.axes[-1], right, -2)
    call.tie(rows if left.is_parameter else None, columns if right.is_parameter else None)
    call.freeze(_IN_GROUPS, *left.axes[:-2], *right.axes[:-2])
    summed = next((ids for ids in inner if ids is not None), None)
    call.state.notes.count_macs(call.node, a.shape[-2] * b.shape[-1] * a.shape[-1], summed, rows, columns)
    if a.dim() == b.dim():
        call.freeze(_IN_GROUPS, *inner)
        return (None, rows, columns)
    contract(call, stored(left, -1), stored(right, -2), *inner)
    call.freeze(_IN_GROUPS, columns if a.dim() == 3 else rows)
    return (None, columns) if a.dim() == 2 else (rows, None)
