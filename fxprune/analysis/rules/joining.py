"""Rules for operators that join tensors, end to end or side by side on a new axis."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from ..call import Call, Rule
from ..channels import Axes, Ids
from .pointwise import meet_axis
from .registry import rule
from .uniformity import met_axis, needs_size


def joined(call: Call, _: Rule) -> list[Axes]:
    """Behind a concatenation or a stack, axes wait along which all operands do.

    Concatenated axes of which some wait go on together; the positions of the others are frozen. One map joined with
    itself is like an expanded one.
    """
    stacked, operands = call.name == "stack", call.args[0]
    operands, dim = [x for x in operands if stacked or x.dim() == call.out.dim()], call.args[1] % call.out.dim()
    sizes = operands[0].shape
    axes = [
        None if other == dim and not stacked else met_axis(call, operands, len(sizes) - other, size)
        for other, size in enumerate(sizes)
    ]
    if stacked:
        axes.insert(dim, None)
    elif all(call.label(x).axes[dim] is None for x in operands):
        pieces = [(x.shape[dim], call.label(x).waiting(dim)) for x in operands]
        again = len(operands) > 1 and all(x is operands[0] for x in operands)
        if sizes[dim] == 1 and again and not _counts_at_run_time(call.node):
            axes[dim] = call.channels.fresh(len(operands))
            needs_size(call, "a concatenation", axes[dim])
            return [tuple(axes)]
        axes[dim] = _concatenated(call, pieces) if any(ids is not None for _, ids in pieces) else None
    return [tuple(axes)]


def _counts_at_run_time(node: fx.Node | None) -> bool:
    """Tell whether the graph makes the list of what a call joins: ``[x] * y.shape[1]``."""
    return node is not None and node.op == "call_function" and bool(node.args) and isinstance(node.args[0], fx.Node)


@rule("cat", "concat", keeps_parameters=True, creates_channels=True, uniform=joined)
def cat(call: Call) -> Axes:
    """One axis is concatenated; on the other axes the operands meet."""
    operands = [x for x in call.args[0] if x.dim() == call.out.dim()]
    dim = call.args[1] % call.out.dim()
    axes = [None if other == dim else _together(call, operands, other) for other in range(call.out.dim())]
    axes[dim] = _end_to_end(call, operands, dim)
    return tuple(axes)


@rule("stack", keeps_parameters=True, uniform=joined)
def stack(call: Call) -> Axes:
    """A new axis holds the operands side by side; on the other axes they meet."""
    operands = call.args[0]
    axes = [_together(call, operands, dim) for dim in range(operands[0].dim())]
    axes.insert(call.args[1] % call.out.dim(), None)
    return tuple(axes)


@rule("block_diag")
def on_diagonal(call: Call) -> Axes:
    """Matrices along the diagonal of one: rows end to end, and columns; elsewhere are zeros."""
    matrices = call.args[0]
    if any(x.dim() != 2 for x in matrices):
        call.freeze("vectors put on a diagonal", *(ids for x in matrices for ids in call.axes(x)))
        return (None, None)
    return tuple(_end_to_end(call, matrices, dim) for dim in range(2))


def _together(call: Call, operands: list[torch.Tensor], dim: int) -> Ids | None:
    return meet_axis(call, [(x, dim) for x in operands])


def _end_to_end(call: Call, operands: list[torch.Tensor], dim: int) -> Ids | None:
    labels = [(x.shape[dim], call.label(x)) for x in operands if x.shape[dim] > 0]
    carried = [label for _, label in labels if label.axes[dim] is not None]
    if not carried:
        return None
    alone = any(label.axes[dim] is None and label.waiting(dim) is None for _, label in labels)
    if alone and all(label.from_parameters for label in carried):
        # Tokens of a parameter stand before tokens of the input: the axis has no channels.
        call.freeze("joined with positions that carry no channels", *(label.axes[dim] for _, label in labels))
        call.freeze("joined with positions that carry no channels", *(label.waiting(dim) for _, label in labels))
        return None
    on_parts = [
        (size, call.met(carried[0].axes[dim], label, dim) if label.axes[dim] is None else label.axes[dim])
        for size, label in labels
    ]
    return _concatenated(call, on_parts)


def _concatenated(call: Call, pieces: list[tuple[int, Ids | None]]) -> Ids:
    """Return the ids of pieces end to end, which do not merge; positions without any freeze."""
    fixed = [call.channels.fresh(size) if ids is None else call.state.labels.keep_apart(ids) for size, ids in pieces]
    call.freeze("", *(vector for (_, ids), vector in zip(pieces, fixed, strict=True) if ids is None))
    return call.channels.distinct(np.concatenate(fixed))
