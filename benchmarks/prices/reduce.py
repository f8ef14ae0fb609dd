"""Make a narrow network of the wide one: by folding, by removal, or by Torch-Pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

import fxprune
from benchmarks.results.rivals import Gone, Importance, l1_norms, removal, remove, weakest
from fxprune.coupling import Coupling
from fxprune.passes.repair import repair as repair_network
from fxprune.plans import Plan

from .bench import PriceBench
from .importance import mean_absolute, taylor

IMPORTANCE: Mapping[str, Callable[[PriceBench, Coupling, nn.Module], Importance]] = {
    "l1": lambda bench, coupling, wide: l1_norms(coupling),
    "taylor": lambda bench, coupling, wide: taylor(coupling, wide, bench.labelled),
    "activation": lambda bench, coupling, wide: mean_absolute(coupling, wide, bench.images),
}


def plan_by(bench: PriceBench, wide: nn.Module, cluster: str) -> Plan:
    """Cluster by rows, activations or outputs; ``even``: runs of consecutive channels."""
    coupling, seed = bench.couple(wide), bench.task.seed
    if cluster == "even":
        return fxprune.plan(coupling, bench.share, method="even", seed=seed)
    return fxprune.plan(coupling, bench.share, cluster=cluster, batches=bench.images, seed=seed)


def fold(bench: PriceBench, wide: nn.Module, cluster: str, repair: str) -> nn.Module:
    """Merge clusters, and repair what the merge breaks."""
    return fxprune.fold(wide, plan_by(bench, wide, cluster), bench.images, repair=repair)


def remove_by(bench: PriceBench, wide: nn.Module, importance: str, repair: str) -> nn.Module:
    """Remove the least important channels, and repair the others."""
    coupling = bench.couple(wide)
    gone = weakest(coupling, bench.share, IMPORTANCE[importance](bench, coupling, wide))
    return remove_and_repair(wide, coupling, gone, bench.images, repair)


def remove_and_repair(
    wide: nn.Module, coupling: Coupling, gone: Gone, images: Sequence[Tensor], repair: str
) -> fx.GraphModule:
    """Remove channels, and repair those that stay from images without labels."""
    small = remove(wide, coupling, gone)
    if repair != "none":
        weights = {name: np.ones(coupling.groups[name].width) for name in gone}
        for name, out in gone.items():
            weights[name][out] = 0.0
        small = repair_network(wide, small, removal(coupling, gone), images, repair=repair, weights=weights)
    return small


def torch_pruning(bench: PriceBench, wide: nn.Module) -> nn.Module:
    """Prune by Torch-Pruning's own groups, group magnitudes and widths, its defaults otherwise."""
    import torch_pruning as tp

    small, size = copy.deepcopy(wide), bench.settings.image_size
    pruner = tp.pruner.BasePruner(
        small,
        torch.zeros(1, 1, size, size),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1.0 - bench.share,
        ignored_layers=[small.fc],
    )
    pruner.step()
    return small
