"""Narrow the smallest network of a class to half its width, and put it back into the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

import fxprune
from benchmarks.networks import small_form
from fxprune.errors import GraftError, NothingToPruneError
from fxprune.passes.verify import randomised, scattered

from .interface import untrue

KEEP = 0.5

# Classes whose smallest published network does not fit into the limits: one of the same class with fewer or narrower
# layers takes its place. The settings are those of timm's builders.
_VIT = {"depth": 2, "embed_dim": 192, "num_heads": 3}
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "naflexvit_base_patch16_parfac_gap": _VIT,
    "qwen3_vit_88m": _VIT,
    "qwen3_vit_88m_enc": _VIT,
    "deepseek_vit_412m": _VIT,
    "deepseek_vit_412m_enc": _VIT,
    "gemma4_vit_167m": {**_VIT, "intermediate_size": 768},
    "gemma4_vit_167m_enc": {**_VIT, "intermediate_size": 768},
    "mobilenetv5_300m_enc": {"channel_multiplier": 0.25},
    "nasnetalarge": {"num_features": 1056, "stem_size": 32},
}


def check(model: str, record: Callable[..., None]) -> None:
    """Record the verdict: ``grafts``, ``does not graft`` with the reason, or ``nothing merges``.

    Of what grafts, also record whether timm's ``interface`` of it is ``true``.
    """
    torch.set_num_threads(1)
    settings = SMALLER.get(model, {})
    form = small_form(model, **settings)
    record(image=form.image, settings=", ".join(f"{name}={value}" for name, value in settings.items()))
    network = randomised(form.build()).eval()
    try:
        # Clusters of random weights mean nothing, and to look for them takes most of the time.
        plan = scattered(fxprune.couple(network, form.example(network)), keep=KEEP, seed=0)
    except NothingToPruneError:
        record(verdict="nothing merges")
        return
    narrow = fxprune.narrow(fxprune.snap(network, plan), plan)
    try:
        grafted = fxprune.graft(network, narrow)
    except GraftError as error:
        record(verdict="does not graft", reason=str(error))
        return
    record(verdict="grafts")
    images = torch.randn(2, 3, form.image, form.image, generator=torch.Generator().manual_seed(0))
    record(interface="; ".join(untrue(network, grafted, images)) or "true")
