"""Operators that torchvision brings."""

from __future__ import annotations

import torchvision.ops  # noqa: F401  (its operators exist once it is imported)

from ..call import Call
from ..state import Axes
from .registry import rule


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(call: Call) -> list[Axes]:
    """``[b, c, h, w], [k, 5] -> [k, c, height, width]``: channels pass, all else is space."""
    x, boxes = call.args[:2]
    on_x = call.axes(x)
    for ids in (on_x[0], *on_x[2:], *call.axes(boxes)):
        call.freeze(ids, "an axis with channels is treated as space")
    kept: Axes = (None, on_x[1], None, None)
    outs = call.out if isinstance(call.out, (tuple, list)) else [call.out]
    return [kept for _ in outs]
