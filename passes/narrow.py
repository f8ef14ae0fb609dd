"""Narrow equals snapped, with every cluster's channels computed once."""

from __future__ import annotations

from torch import fx, nn

from fxprune.meta import copy_with
from fxprune.plans import Plan

from .attributes import adapt_layers
from .merge import merge_state
from .rewrite import check_shapes_of, rewrite


def narrow(model: nn.Module, plan: Plan) -> fx.GraphModule:
    """Network with one channel per cluster, which computes what ``snap(model, plan)`` computes in eval mode.

    Parameters are merged, layers keep their names and tell their new widths, literal sizes in the graph are rewritten;
    batch and image size stay dynamic. ``narrow.meta["plan"]`` is the plan.

    Args:
        model: the wide network, with any weights; it is not modified.
        plan: clusters for this network, or for another instance of it.

    Raises:
        PlanError: the plan is for another network.
        RewriteError: the narrow graph does not have the shapes that the plan demands (a bug in fxprune).
    """
    plan = plan.on(model)
    coupling = plan.coupling
    state = merge_state(model, plan)
    # Constants that tracing made are no tensors of the model.
    module = copy_with(coupling.graph_module, lambda name, tensor: state.get(name, tensor).detach())
    assert isinstance(module, fx.GraphModule)
    adapt_layers(module, plan)
    module.graph = rewrite(coupling, plan)
    module.recompile()
    module.graph.lint()
    check_shapes_of(module, plan)
    for name, child in module.named_modules():
        child.training = model.get_submodule(name).training if _has(model, name) else model.training
    module.meta["plan"] = plan
    return module


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
