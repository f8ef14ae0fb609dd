"""Narrow the smallest network of a class to half its width, and put it back into the class."""

from __future__ import annotations

from collections.abc import Callable

import torch

import fxprune
from benchmarks.coverage.network import small_form
from fxprune.errors import GraftError, NothingToPruneError
from fxprune.passes.verify import randomised, scattered

from .interface import untrue

KEEP = 0.5


def check(model: str, record: Callable[..., None]) -> None:
    """Record the verdict: ``grafts``, ``does not graft`` with the reason, or ``nothing merges``.

    Of what grafts, also record whether timm's ``interface`` of it is ``true``.
    """
    torch.set_num_threads(1)
    form = small_form(model)
    record(image=form.image)
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
