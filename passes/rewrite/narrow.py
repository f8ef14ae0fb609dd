"""The narrow network equals the snapped one and computes each cluster once."""

from __future__ import annotations

import warnings

from torch import Tensor, fx, nn

from fxprune.arguments.batches import BatchRange, graph_batches
from fxprune.capture import CUSTOM_GRADIENTS
from fxprune.composition import remember
from fxprune.errors import CustomGradientWarning, UnequalClustersWarning
from fxprune.passes.merge import merged_state, warn_of_hooks
from fxprune.plan_file import earlier_plans_of, meta_of, plan_for, plan_of
from fxprune.plans import Plan
from fxprune.pytorch.modes import show_blocks
from fxprune.pytorch.modules import map_tensors, named_tensors
from fxprune.pytorch.network import network_of

from .absorption import absorb_factors
from .copies import check_groups, keep_copies
from .graph import check_shapes_of, rewrite
from .layers import adapt_layers
from .sums import FACTOR

# Change of a row, relative to the size of the rows, above which a cluster counts as unequal. C-SGD ends at some 1e-4.
UNEQUAL = 1e-2


def narrow(model: nn.Module, plan: Plan, *, absorb: bool = True) -> fx.GraphModule:
    """Build the network with one channel per cluster: ``snap(model, plan)`` in eval mode.

    It merges parameters and rewrites literal sizes in the graph; layers keep their names and get their new widths.
    Batch and image size stay dynamic. ``narrow.meta`` holds ``plan``; ``earlier``, the plans before it, if the model
    was narrow already, and then ``composed``, all of them in one plan on the first network; ``max_change``, the largest
    change that the snap made (:func:`~fxprune.passes.merge.snap.snap` defines it); ``absorbed``, how many factors of
    narrowed heads moved into weights; and ``factors``, how many stay in the graph. ``narrow.config`` is the model's, if
    it has one: it still gives the wide widths, and ``copy.deepcopy`` drops it, as torch.fx does.

    Args:
        model: the wide network, with any weights; it is not modified.
        plan: clusters for this network, or for another instance of it.
        absorb: move factors of narrowed heads into weights where that is exact, so that a network of the same class
            that is built narrow computes the same with these weights; otherwise they stay in the graph.

    Raises:
        PlanError: the plan is for another network, or asks for widths that a layer cannot have.
        ModelError: a tensor that the plan cuts holds a NaN or an infinity.
        RewriteError: the narrow graph does not have the shapes that the plan demands (a bug in fxprune).

    Warns:
        UnequalClustersWarning: members of a cluster differ by more than 1 %, so that the narrow network does not
            compute what ``model`` does.
        CustomGradientWarning: ``model`` has gradients of its own, or hooks for those of parameters, which the narrow
            network does not have.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> tuple(narrow.get_submodule("0").weight.shape), tuple(narrow.get_submodule("2").weight.shape)
        ((4, 3, 3, 3), (4, 4, 3, 3))
    """
    warn_of_hooks(network_of(model), stacklevel=3)
    module, changes = merged_by(plan, model, absorb=absorb)
    if not module.meta["max_change"] <= UNEQUAL:
        _warn(changes)
    if custom := plan.coupling.graph_module.meta.get(CUSTOM_GRADIENTS):
        warnings.warn(
            f"{', '.join(f'`{name}`' for name in custom)}: the narrow network computes what the forward of this "
            "torch.autograd.Function does, but not its gradient, as a straight-through or a surrogate one. So it runs "
            "only where no gradients are recorded.",
            CustomGradientWarning,
            stacklevel=2,
        )
    return module


def merged_by(plan: Plan, model: nn.Module, *, absorb: bool = True) -> tuple[fx.GraphModule, dict[str, float]]:
    """Build the narrow network without a warning; also return the snap's change of each tensor."""
    model = network_of(model)
    plan = plan_for(model, plan)
    coupling = plan.coupling
    state, changes = merged_state(model, plan)
    # The trace makes constants that are not tensors of the model.
    module = map_tensors(coupling.graph_module, lambda name, tensor: state.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    adapt_layers(module, plan)
    graph = rewrite(coupling, plan)
    show_blocks(graph)
    module.graph = graph  # which compiles it
    module.graph.lint()
    values = keep_copies(module, plan)
    check_groups(values)
    moved = absorb_factors(module, values) if absorb else 0
    for name, child in module.named_modules():
        child.training = model.get_submodule(name).training if _has(model, name) else model.training
    if (config := getattr(model, "config", None)) is not None and not hasattr(module, "config"):
        module.config = config  # tools of transformers and diffusers read it
    factors = sum(FACTOR in node.meta for node in module.graph.nodes)
    last, given = plan_of(model), meta_of(model)
    earlier = () if last is None else (*earlier_plans_of(model), last)
    before = given.get("absorbed", 0) if earlier else 0  # factors that are in the weights already stay there
    absorbed = None if before is None else moved + before
    module.meta.update(max_change=max(changes.values(), default=0.0), factors=factors, absorbed=absorbed)
    remember(module.meta, plan, earlier, given.get("origin") or given.get("spec"))
    return module, changes


def narrow_batches(plan: Plan, model: nn.Module) -> BatchRange:
    """Find the batch sizes that the narrow network takes, which its own guards may bind."""
    return graph_batches(merged_by(plan, model)[0], plan.coupling.example_inputs)


def merged_tensors(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the narrow network by name, with all factors in its graph."""
    plan = plan_for(model, plan)
    state, _ = merged_state(model, plan)
    return {name: state.get(name, tensor).detach() for name, tensor in named_tensors(plan.coupling.graph_module)}


def absorb(narrow: fx.GraphModule, plan: Plan) -> int:
    """Move factors of narrowed heads into weights in place, where exact; return how many.

    It is what :func:`narrow` does by default: for a network that was made with ``absorb=False`` and changed since.
    """
    moved = absorb_factors(narrow, check_shapes_of(narrow, plan))
    if narrow.meta["absorbed"] is not None:
        narrow.meta["absorbed"] += moved
    narrow.meta["factors"] -= moved
    return moved


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
