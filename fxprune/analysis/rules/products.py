"""Matrix products of groups of rows, as tokens meet the weights of their experts."""

from __future__ import annotations

from ..call import Call
from ..channels import Axes
from .convolution import contract, product, stored
from .registry import rule

_IN_GROUPS = "rows or columns that offsets divide into groups"


@rule("_grouped_mm", "transformers::grouped_mm_fallback", reads_weights=(0, 1))
def grouped(call: Call) -> Axes:
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
    call.count_macs(a.shape[-2] * b.shape[-1] * a.shape[-1], summed, rows, columns)
    if a.dim() == b.dim():
        call.freeze(_IN_GROUPS, *inner)
        return (None, rows, columns)
    contract(call, stored(left, -1), stored(right, -2), *inner)
    call.freeze(_IN_GROUPS, columns if a.dim() == 3 else rows)
    return (None, columns) if a.dim() == 2 else (rows, None)
