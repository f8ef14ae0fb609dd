"""Follow axes along which all numbers are equal, of an expanded tensor or one of zeros.

Such an axis may stand for any channels. It has ids that *wait*: where it meets an axis of channels, they are united,
and the axis becomes as narrow as the other one. Where an operator does more with it than move it, the waiting ids
freeze.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..call import Call, Rule, inside_call
from ..channels import Axes, Ids
from ..labels import tensors_in


def moved(call: Call, rule: Rule) -> list[Axes]:
    """Return what the operator's own rule says of axes that wait: it only moves or cuts them."""
    answer = rule(dataclasses.replace(call, waits=True))
    return answer if isinstance(answer, list) else [answer]


def met(call: Call, _: Rule) -> list[Axes]:
    """A result is uniform along an axis along which all operands are."""
    shape = call.outs[0].shape
    operands = tensors_in(call.args)
    axes = tuple(met_axis(call, operands, len(shape) - dim, size) for dim, size in enumerate(shape))
    return [axes if out.dim() == len(axes) else () for out in call.outs]


def met_axis(call: Call, operands: list[torch.Tensor], behind: int, size: int) -> Ids | None:
    """Return the ids of an axis, from behind, along which all operands of this size wait."""
    here = [x for x in operands if x.dim() >= behind and x.shape[-behind] == size > 1]
    waiting = [call.label(x).waiting(-behind) for x in here]
    if not here or any(ids is None for ids in waiting):
        return None
    result = waiting[0]
    for ids in waiting[1:]:
        call.unify(result, ids)
    return result


def filled(call: Call, _: Rule) -> list[Axes]:
    """A new tensor holds one number everywhere."""
    return [_fresh(call, "the size of a new tensor", [size > 1 for size in call.out.shape])]


def expanded(call: Call, _: Rule) -> list[Axes]:
    """New axes, and axes that had length 1, repeat one number."""
    return [_repeated(call, call.out.dim() - call.args[0].dim(), "an expansion")]


def repeated(call: Call, _: Rule) -> list[Axes]:
    """The repetitions of an axis without channels may stand for channels."""
    x, counts = call.args[0], call.args[1]
    lead, label = len(counts) - x.dim(), call.label(x)
    again = [dim for dim in range(x.dim()) if x.shape[dim] > 1 and counts[lead + dim] != 1]
    call.freeze("an expanded axis is repeated", *(label.waiting(dim) for dim in again))
    axes = list(_repeated(call, lead, "a repetition"))
    for dim in again:
        alone = label.axes[dim] is None and label.waiting(dim) is None
        axes[lead + dim] = _blocks(call, counts[lead + dim], x.shape[dim]) if alone else None
    return [tuple(axes)]


def _blocks(call: Call, count: int, size: int) -> Ids:
    blocks = call.channels.fresh(count)
    call.needs_rewrite("a repetition", blocks)
    return call.channels.copies(np.repeat(blocks, size), beside=True)


def _repeated(call: Call, lead: int, what: str) -> Axes:
    x = call.args[0]
    new = [dim < lead or x.shape[dim - lead] == 1 for dim in range(call.out.dim())]
    fresh = _fresh(call, what, [is_new and size > 1 for is_new, size in zip(new, call.out.shape, strict=True)])
    label = call.label(x)
    return tuple(ids if new[dim] else label.waiting(dim - lead) for dim, ids in enumerate(fresh))


def needs_size(call: Call, what: str, *axes: Ids | None) -> None:
    """Declare that this operation makes axes of a size that depends on widths.

    If neither the rewrite can change it nor the call that is kept whole adapts, the ids freeze.
    """
    if not call.state.rewritable:
        call.state.marks.make_sized(inside_call(what, call.node), *axes)


def _fresh(call: Call, what: str, which: list[bool]) -> Axes:
    axes = tuple(call.channels.fresh(size) if new else None for size, new in zip(call.out.shape, which, strict=True))
    needs_size(call, what, *axes)
    return axes
