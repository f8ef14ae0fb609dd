"""Rules for operators that sample images at points, most of them torchvision's."""

from __future__ import annotations

import torch
import torchvision.ops  # noqa: F401  (its operators exist once it is imported)

from ..call import Call
from ..channels import Axes, Ids
from ..labels import Label
from .pointwise import paired
from .products import read_by
from .registry import rule


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(call: Call) -> list[Axes]:
    """``[b, c, h, w], [k, 5] -> [k, c, height, width]``: channels pass, other axes are space."""
    x, boxes = call.args[:2]
    on_x = call.axes(x)
    call.freeze("an axis with channels is treated as space", on_x[0], *on_x[2:], *call.axes(boxes))
    return [(None, on_x[1], None, None)] * len(call.outs)


@rule("grid_sampler_2d", "grid_sampler_3d")
def warped(call: Call) -> Axes:
    """``[b, c, h, w], [b, p, q, 2] -> [b, c, p, q]``: each channel is sampled alike."""
    x, grid = call.args[:2]
    on_x = call.axes(x)
    call.freeze("an axis with channels is treated as space", on_x[0], *on_x[2:], *call.axes(grid))
    return (None, on_x[1], *(None for _ in on_x[2:]))


@rule("torchvision::deform_conv2d", reads_weights=(1,))
def deformed(call: Call) -> Axes:
    """Convolution at points that offsets choose: columns read; offsets serve many channels."""
    x, weight, offset, mask, bias = call.args[:5]
    label, on_x = call.label(weight), call.axes(x)
    call.freeze("an axis with channels is treated as space", on_x[0], *on_x[2:])
    call.freeze("offsets and masks", *call.axes(offset), *call.axes(mask))
    call.freeze("a kernel axis of a computed weight" if not label.is_parameter else "", *label.axes[2:])
    _read(call, on_x[1], label)
    call.tie(label.axes[0])
    return (None, paired(call, label.axes[0], _vector(call, bias)), None, None)


def _read(call: Call, x: Ids | None, label: Label) -> None:
    """Columns read channels; each group of offsets has the same ones; groups of weights freeze."""
    (groups, of_offsets), (rows, columns) = call.args[11:13], label.axes[:2]
    if groups > 1:
        call.freeze("a deformed convolution in groups", x, rows, columns)
        return
    if x is not None:
        call.unify_rows(x.reshape(of_offsets, -1), f"{of_offsets} groups of offsets")
    read_by(call, x, columns, label)


def _vector(call: Call, bias: torch.Tensor) -> Ids | None:
    ids = call.axes(bias)[0]
    call.tie(ids)
    return call.label(bias).waiting(0) if ids is None else ids
