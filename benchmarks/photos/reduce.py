"""Make a narrow network from crops of photos: by a merge, or by removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

import fxprune
from benchmarks.prices import remove_and_repair
from benchmarks.results.rivals import l1_norms, weakest_of
from fxprune.coupling import Coupling

from .networks import PhotoNetwork
from .settings import PhotoSettings


@dataclass(frozen=True)
class PhotoMethod:
    """A way to a narrow network."""

    label: str
    by: str
    repair: str
    inner: bool = True
    trained: bool = False


def analyse(wide: nn.Module, settings: PhotoSettings) -> Coupling:
    """Analyse a network for crops of this size."""
    return fxprune.couple(wide, torch.empty(2, 3, settings.image_size, settings.image_size, device="meta"))


def reduce(
    network: PhotoNetwork,
    wide: nn.Module,
    coupling: Coupling,
    crops: Sequence[Tensor],
    share: float,
    method: PhotoMethod,
) -> fx.GraphModule:
    """Narrow a network to a share of its MACs."""
    only, by = network.inner if method.inner else None, method.by
    if by == "l1":
        plan = fxprune.plan(coupling, macs=share, only=only, method="even")
        return remove_and_repair(wide, coupling, weakest_of(l1_norms(coupling), plan), crops, method.repair)
    plan = fxprune.plan(coupling, macs=share, only=only, cluster=by, batches=None if by == "rows" else crops)
    return fxprune.fold(wide, plan, crops, repair=method.repair)
