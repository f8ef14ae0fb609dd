"""Tell whether a squeeze may leave an axis that nothing behind it counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import FLATTENS, VIEWS, call_kind, runs_own_code

from .site import Site

_IN_ORDER = frozenset({
    "relu", "gelu", "silu", "sigmoid", "tanh", "mul", "truediv", "add", "sub", "neg", "clone", "contiguous", "dropout",
    "flatten", "identity", "relu6", "leaky_relu", "leakyrelu", "elu", "selu", "celu", "mish", "softplus", "hardswish",
    "hardsigmoid", "hardtanh", "logsigmoid", "clamp", "pow", "exp", "log", "sqrt", "abs",
})  # fmt: skip


def read_from_behind(site: Site) -> bool:
    """Tell whether nothing behind a call counts axes from the front, of which one may be gone."""
    nodes, module = site.coupling.nodes, site.coupling.graph_module
    if "squeeze_" in str(site.node.target).split("."):
        return False  # what else reads the tensor is not known
    loose = {site.node}
    for node in module.graph.nodes:
        given = [each for each in node.all_input_nodes if isinstance(nodes[each.name].value, Shape)]
        if node.op == "output" or loose.isdisjoint(node.all_input_nodes):
            continue
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if runs_own_code(node) or not (type(layer) in (nn.Linear, nn.LayerNorm) or _keeps_order(site, node)):
                return False
            if _is_narrower(site, nodes[node.name].value):
                loose.add(node)
        elif call_kind(node) in VIEWS - {"unflatten", torch.unflatten}:
            if not loose.isdisjoint(node.all_input_nodes[1:]) or node.args[:1] != (given[0],):
                return False
        elif _keeps_order(site, node) and call_kind(node) not in VIEWS | FLATTENS:
            rank = len(nodes[node.name].value.sizes)
            if all(each in loose or len(nodes[each.name].value.sizes) < rank for each in given):
                loose.add(node)
        else:
            return False
    return True


def _keeps_order(site: Site, node: fx.Node) -> bool:
    """Tell whether a call returns the numbers of its input in order, each changed by itself."""
    target: Any = node.target
    if node.op == "call_module":  # whose name may be that of a method
        target = type(site.coupling.graph_module.get_submodule(target))
    elif call_kind(node) in VIEWS | FLATTENS:
        return True
    return str(getattr(target, "__name__", target)).lower() in _IN_ORDER


def _is_narrower(site: Site, value: Any) -> bool:
    """Tell whether a tensor loses channels; any other is that of the wide network."""
    axes = value.axes if isinstance(value, Shape) else ()
    return any(codes is not None and not site.plan.kept[codes].all() for codes in axes)
