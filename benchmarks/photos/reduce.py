"""Make a narrow network from crops of photos: by a merge, or by removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torchvision.models import mobilenet_v2

import fxprune
from benchmarks.prices.reduce import remove_and_repair
from benchmarks.results.rivals.remove import l1_norms, weakest_of
from fxprune.coupling import Coupling

from .packages import mobilenet_weights
from .settings import PhotoSettings

# Between the two 1x1 convolutions of each block.
INNER = ("features.*.conv.0.0.weight",)


@dataclass(frozen=True)
class Method:
    """A way to a narrow network."""

    label: str
    by: str
    repair: str
    inner: bool = True
    trained: bool = False


def wide_network(settings: PhotoSettings) -> nn.Module:
    """Return MobileNetV2 with its weights of ImageNet."""
    network = mobilenet_v2(width_mult=settings.width)
    network.load_state_dict(torch.load(mobilenet_weights(), map_location="cpu", weights_only=True))
    return network.eval()


def analyse(wide: nn.Module, settings: PhotoSettings) -> Coupling:
    """Analyse a network for crops of this size."""
    return fxprune.couple(wide, torch.empty(2, 3, settings.image_size, settings.image_size, device="meta"))


def reduce(
    wide: nn.Module, coupling: Coupling, crops: Sequence[Tensor], share: float, method: Method
) -> fx.GraphModule:
    """Narrow a network to a share of its MACs."""
    only, by = INNER if method.inner else None, method.by
    if by == "l1":
        plan = fxprune.plan(coupling, macs=share, only=only, method="even")
        return remove_and_repair(wide, coupling, weakest_of(l1_norms(coupling), plan), crops, method.repair)
    plan = fxprune.plan(coupling, macs=share, only=only, cluster=by, batches=None if by == "rows" else crops)
    return fxprune.fold(wide, plan, crops, repair=method.repair)
