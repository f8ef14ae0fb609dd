"""Pointwise operators: ids that meet on an axis are the same channel."""

from __future__ import annotations

import torch

from fxprune.pytorch.call_targets import PADS, call_kind

from ..call import Call, Rule
from ..channels import Axes, Ids
from ..labels import tensors_in
from ..operation import unlabelled
from .registry import Entry, rule
from .uniformity import filled, met, moved

# Pointwise operators that PyTorch does not tag as such.
_UNTAGGED = (
    "abs_", "complex", "copy", "copy_", "copysign_", "eq_", "floor_divide", "floor_divide_", "ge_", "gelu_", "gt_",
    "hardswish", "hardswish_", "le_", "lerp", "log_sigmoid_forward", "lt_", "masked_fill", "masked_fill_", "mish_",
    "ne_", "polar", "rsub", "threshold_", "where.self", "xlogy_", "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", "_fake_quantize_learnable_per_tensor_affine",
)  # fmt: skip
NO_CHANNELS = "meets positions that carry no channels"
RANDOM = "random numbers, one for each position"
# Where these operators take the training flag.
_TRAINS = {"native_dropout": 2, "rrelu_with_noise": 4, "rrelu_with_noise_": 4}


@rule(*_UNTAGGED, uniform=met)
def pointwise(call: Call) -> list[Axes]:
    """Equal operands give equal results: broadcast, and unite the ids that meet.

    This is the rule for every operator that PyTorch tags as pointwise.
    """
    axes = meet(call, tensors_in(call.args), call.outs[0].shape)
    return [axes if out.dim() == len(axes) else unlabelled(out) for out in call.outs]


# The entry of an operator that PyTorch tags as pointwise.
POINTWISE = Entry(pointwise, uniform=met)


def meet(call: Call, operands: list[torch.Tensor], shape: torch.Size) -> Axes:
    """Broadcast ``operands`` to ``shape`` and unite the ids that meet; return ids on all axes."""
    axes: list[Ids | None] = []
    for dim, size in enumerate(shape):
        behind = len(shape) - dim
        here = [x for x in operands if x.dim() >= behind and x.shape[x.dim() - behind] == size]
        axes.append(meet_axis(call, [(x, x.dim() - behind) for x in here]) if size > 1 else None)
    return tuple(axes)


def meet_axis(call: Call, here: list[tuple[torch.Tensor, int]]) -> Ids | None:
    """Unite the ids on axes of tensors that meet; freeze them where one has no channels."""
    every = [(call.label(tensor), dim) for tensor, dim in here]
    waiting = [label.waiting(dim) for label, dim in every if label.axes[dim] is None]
    labels = [(label, dim) for label, dim in every if label.axes[dim] is not None or label.waiting(dim) is None]
    if any(label.axes[dim] is None for label, dim in labels):
        # The positions of one operand carry no channels: tokens with a position embedding, a fixed table.
        call.freeze(NO_CHANNELS, *(label.axes[dim] for label, dim in labels), *waiting)
        carried = [label.axes[dim] for label, dim in labels if not label.from_parameters]
        return next((ids for ids in carried if ids is not None), None)
    found: Ids | None = None
    for label, dim in labels:
        found = call.unify(found, label.axes[dim])
    for label, dim in every:
        if label.axes[dim] is None:
            call.unify(found, call.met(found, label, dim))
    return found


def paired(call: Call, left: Ids | None, right: Ids | None) -> Ids | None:
    """Unify two axes position by position and return the ids; freeze if one has no channels."""
    if left is None or right is None:
        call.freeze(NO_CHANNELS, left, right)
        return left
    return call.unify(left, right)


@rule("glu")
def glu(call: Call) -> Axes:
    """The second half of an axis gates the first: position i meets position n/2 + i."""
    axes, dim = list(call.axes(call.args[0])), call.args[1]
    ids = axes[dim]
    if ids is not None:
        half = len(ids) // 2
        call.unify(ids[:half], ids[half:])
        axes[dim] = ids[:half]
    return tuple(axes)


@rule("_prelu_kernel", "prelu")
def prelu(call: Call) -> Axes:
    """Slopes tie with the channels of axis 1, unless one slope serves all."""
    x, slope = call.args[0], call.args[1]
    axes = list(call.axes(x))
    slopes = call.axes(slope)
    ids = slopes[0] if slope.dim() == 1 else (slopes[1] if slopes else None)
    if ids is not None:
        axes[1] = paired(call, axes[1], ids)
    return tuple(axes)


@rule("bucketize.Tensor", "isin.Tensor_Tensor", "searchsorted.Tensor")
def looked_up(call: Call) -> Axes:
    """Each number is looked up by itself in a table, whose axes are no channels."""
    first, second, *more = call.args
    x, table = (first, second) if call.name != "searchsorted" else (second, first)
    others = (ids for other in (table, *tensors_in(more)) for ids in call.axes(other))
    by_place = call.named("assume_unique") or (call.name == "searchsorted" and table.dim() > 1)
    call.freeze("numbers of a table", *others, *(call.axes(x) if by_place else ()))
    return call.axes(x)


@rule("zeros_like", "ones_like", "full_like", "fill", "fill_", "zero", "zero_", uniform=moved)
def constant(call: Call) -> Axes:
    """The result has the operand's sizes and one number everywhere."""
    return call.axes(call.args[0])


@rule("new_zeros", "new_ones", "new_full", "ones", "full", "empty", creates_channels=True, uniform=filled)
def new(call: Call) -> Axes:
    """The result holds one number everywhere, or none yet, at sizes that are given."""
    return unlabelled(call.out)


@rule("empty_like", "new_empty_strided")
def unwritten(call: Call) -> Axes:
    """The result holds no numbers yet, at the operand's sizes or others."""
    x = call.args[0]
    return call.axes(x) if x.shape == call.out.shape else unlabelled(call.out)


@rule(
    "rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_", "poisson", "normal", "normal_", "uniform_",
    "random_", "exponential_", "geometric_", "log_normal_", "cauchy_",
)  # fmt: skip
def drawn(call: Call) -> Axes:
    """Each position draws a number of its own: no channel can stand for two."""
    axes = meet(call, tensors_in(call.args), call.out.shape)
    call.freeze(RANDOM, *axes)
    return axes


@rule("native_dropout", "rrelu_with_noise", "rrelu_with_noise_", uniform=met)
def drawn_in_training(call: Call) -> list[Axes]:
    """Pointwise; in training each position draws a number of its own."""
    axes = pointwise(call)
    if call.arg(_TRAINS[call.name], False) is not False:
        call.freeze(RANDOM, *axes[0])
    return axes


def _pads(call: Call) -> bool:
    node = call.node
    return node is not None and (node.op == "call_module" or call_kind(node) in PADS)


def unfilled(call: Call, rule: Rule) -> list[Axes]:
    """A new tensor waits for channels on all axes, unless a padding made it."""
    return [()] if _pads(call) else filled(call, rule)


@rule("new_empty", creates_channels=True, uniform=unfilled)
def empty(call: Call) -> Axes:
    """The result holds no numbers yet; a circular padding writes each channel to its position."""
    x, out = call.args[0], call.out
    if not _pads(call) or x.dim() != out.dim():
        return unlabelled(out)
    axes = call.axes(x)
    call.freeze("padded by other positions", *(ids for ids, a, b in zip(axes, x.shape, out.shape) if a != b))
    return tuple(ids if a == b else None for ids, a, b in zip(axes, x.shape, out.shape, strict=True))


def _is_first_state(call: Call) -> bool:
    return call.inside_layer and call.out.dim() > 1 and call.out.shape[-1] > 1


def new_state(call: Call, rule: Rule) -> list[Axes]:
    """Zeros wait for channels on all axes, unless a layer made them."""
    return [()] if _is_first_state(call) else filled(call, rule)


@rule("zeros", creates_channels=True, uniform=new_state)
def state(call: Call) -> Axes:
    """Zeros are the same in every channel, so the last axis may hold any channels.

    In the first state of a recurrent layer it does, and the layer's attributes determine its length.
    """
    rank = call.out.dim()
    if not _is_first_state(call):
        return unlabelled(call.out)
    return (*(None,) * (rank - 1), call.channels.fresh(call.out.shape[-1]))
