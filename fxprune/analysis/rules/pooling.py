"""Operators that only mix positions in space: channels pass on the leading axes."""

from __future__ import annotations

from ..call import Call
from ..channels import Axes
from .pointwise import RANDOM, paired
from .registry import rule

_MAX = {
    1: ("max_pool1d", "adaptive_max_pool1d"),
    2: ("max_pool2d_with_indices", "adaptive_max_pool2d"),
    3: ("max_pool3d_with_indices", "adaptive_max_pool3d"),
}
# Linear along space, so that the columns of a parameter can be summed before or after it: a table that is resized.
_LINEAR = {
    1: (
        "avg_pool1d", "adaptive_avg_pool1d", "upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d",
        "reflection_pad1d", "replication_pad1d",
    ),
    2: (
        "avg_pool2d", "_adaptive_avg_pool2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa", "upsample_nearest2d", "_upsample_nearest_exact2d", "reflection_pad2d",
        "replication_pad2d",
    ),
    3: (
        "avg_pool3d", "_adaptive_avg_pool3d", "upsample_trilinear3d", "upsample_nearest3d", "_upsample_nearest_exact3d",
        "reflection_pad3d", "replication_pad3d",
    ),
}  # fmt: skip


@rule(*_MAX[1])
@rule(*_LINEAR[1], keeps_parameters=True)
def spatial_1d(call: Call) -> list[Axes]:
    """The last axis is space."""
    return _spatial(call, 1)


@rule(*_MAX[2])
@rule(*_LINEAR[2], keeps_parameters=True)
def spatial_2d(call: Call) -> list[Axes]:
    """The last two axes are space."""
    return _spatial(call, 2)


@rule(*_MAX[3])
@rule(*_LINEAR[3], keeps_parameters=True)
def spatial_3d(call: Call) -> list[Axes]:
    """The last three axes are space."""
    return _spatial(call, 3)


@rule("fractional_max_pool2d", "fractional_max_pool3d")
def drawn_windows(call: Call) -> list[Axes]:
    """Each channel of each sample is pooled in windows of its own, which are drawn."""
    samples = call.named("random_samples")
    call.freeze(RANDOM, *call.axes(call.args[0]), *call.axes(samples))
    return _spatial(call, samples.shape[-1])


def _spatial(call: Call, rank: int) -> list[Axes]:
    axes = call.axes(call.args[0])
    call.freeze("an axis with channels is treated as space", *axes[len(axes) - rank :])
    kept: Axes = (*axes[: len(axes) - rank], *(None,) * rank)
    return [kept] * len(call.outs)


@rule("max_unpool2d", "max_unpool3d")
def unpooled(call: Call) -> Axes:
    """Values go back to their positions: equal values and indices give equal results."""
    values, indices = map(call.axes, call.args[:2])
    rank = int(call.name[-2])
    call.freeze("an axis with channels is treated as space", *values[-rank:], *indices[-rank:])
    lead = [paired(call, *each) for each in zip(values[:-rank], indices[:-rank], strict=True)]
    return (*lead, *(None for _ in range(rank)))
