"""Narrow equals snapped, with every cluster's channels computed once."""

from __future__ import annotations

import warnings
from typing import Any

from torch import fx, nn

from fxprune.common.modes import show_blocks
from fxprune.common.modules import map_tensors
from fxprune.errors import UnequalClustersWarning
from fxprune.passes.merge import concentrate, kept_state
from fxprune.plan_file import plan_for
from fxprune.plans import Plan

from .absorb import absorb_factors
from .graph import check_shapes_of, rewrite
from .layers import adapt_layers
from .sums import FACTOR

# Change of a row, over the size of the rows, from which clusters count as not equal. After C-SGD it is some 1e-4.
UNEQUAL = 1e-2


def narrow(model: nn.Module, plan: Plan, *, absorb: bool = True) -> fx.GraphModule:
    """Network with one channel per cluster, which computes what ``snap(model, plan)`` computes in eval mode.

    Parameters are merged, layers keep their names and tell their new widths, literal sizes in the graph are rewritten;
    batch and image size stay dynamic. ``narrow.meta`` holds the ``plan``, and as ``max_change`` the largest change that
    the snap made, as :func:`~fxprune.passes.merge.snap.snap` counts it, and as ``absorbed`` and ``factors`` how many
    factors of narrowed heads went into weights, and how many stay in the graph.

    Args:
        model: the wide network, with any weights; it is not modified.
        plan: clusters for this network, or for another instance of it.
        absorb: put factors of narrowed heads into weights where that is exact, so that a network of the same class
            that is built narrow computes the same with these weights; otherwise they stay in the graph.

    Raises:
        PlanError: the plan is for another network, or asks for widths that a layer cannot have.
        ModelError: a tensor that the plan cuts holds a NaN or an infinity.
        RewriteError: the narrow graph does not have the shapes that the plan demands (a bug in fxprune).

    Warns:
        UnequalClustersWarning: members of a cluster differ by more than 1 %, so that the narrow network is another one
            than ``model``.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> tuple(narrow.get_submodule("0").weight.shape), tuple(narrow.get_submodule("2").weight.shape)
        ((4, 3, 3, 3), (4, 4, 3, 3))
    """
    module, changes = merged_by(plan, model, absorb=absorb)
    if not module.meta["max_change"] <= UNEQUAL:
        _warn(changes)
    return module


def merged_by(plan: Plan, model: nn.Module, *, absorb: bool = True) -> tuple[fx.GraphModule, dict[str, float]]:
    """Make the narrow network whatever the clusters are like; also tell what the snap changed in each tensor."""
    plan = plan_for(model, plan)
    coupling = plan.coupling
    wide: Any = concentrate(model, plan)
    state = kept_state(wide, plan)
    # Constants that tracing made are no tensors of the model.
    module = map_tensors(coupling.graph_module, lambda name, tensor: state.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    adapt_layers(module, plan)
    module.graph = rewrite(coupling, plan)
    show_blocks(module.graph)
    module.recompile()
    module.graph.lint()
    values = check_shapes_of(module, plan)
    absorbed = absorb_factors(module, values) if absorb else 0
    for name, child in module.named_modules():
        child.training = model.get_submodule(name).training if _has(model, name) else model.training
    factors = sum(FACTOR in node.meta for node in module.graph.nodes)
    module.meta.update(plan=plan, max_change=wide.max_change, factors=factors, absorbed=absorbed)
    return module, wide.changes


def _warn(changes: dict[str, float]) -> None:
    worst = max(changes, key=changes.__getitem__)
    warnings.warn(
        f"channels that are merged differ: setting them to their mean moves a row of `{worst}` by "
        f"{changes[worst]:.2g} of the size of its rows, so the narrow network is not the one given. Train with "
        "`fxprune.csgd` on this plan first, or snap the network first if that is meant.",
        UnequalClustersWarning,
        stacklevel=3,
    )


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
