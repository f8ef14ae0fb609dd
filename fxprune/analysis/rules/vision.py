"""Rules for the operators of torchvision."""

from __future__ import annotations

import torchvision.ops  # noqa: F401  (its operators exist once it is imported)

from ..call import Call
from ..channels import Axes
from .registry import rule


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(call: Call) -> list[Axes]:
    """``[b, c, h, w], [k, 5] -> [k, c, height, width]``: channels pass, other axes are space."""
    x, boxes = call.args[:2]
    on_x = call.axes(x)
    call.freeze("an axis with channels is treated as space", on_x[0], *on_x[2:], *call.axes(boxes))
    return [(None, on_x[1], None, None)] * len(call.outs)
