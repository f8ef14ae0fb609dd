"""How timm may cut, mirror and colour images, by the names of our options; free of torch, for a job to check it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def _is_share(value: Any) -> bool:
    return bool(0.0 <= value <= 1.0)


def _ascends(pair: Any) -> bool:
    return bool(not isinstance(pair, str) and len(pair) == 2 and 0.0 < pair[0] <= pair[1] < math.inf)


# What each must be, and whether a value is; None is always possible. The policy itself is for timm to judge.
RANGES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "random_erasing": ("0 to 1", _is_share),
    "hflip": ("0 to 1", _is_share),
    "vflip": ("0 to 1", _is_share),
    "crop_scale": (
        "two shares above 0 and up to 1, the lower one first",
        lambda pair: _ascends(pair) and pair[1] <= 1.0,
    ),
    "crop_ratio": ("two ratios above 0, the lower one first", _ascends),
    "color_jitter": ("0 or more", lambda x: 0.0 <= x < math.inf),
    "crop_pct": ("a share above 0 and up to 1", lambda x: 0.0 < x <= 1.0),
}
# Where timm has another name.
TIMM: Mapping[str, str] = {"random_erasing": "re_prob", "crop_scale": "scale", "crop_ratio": "ratio"}
