"""Write a graph as JSON: nodes, settings of layers, roles of tensors.

::

    {"name": "Net",
     "nodes": [{"name": "x", "op": "input", "target": "x", "args": []},
               {"name": "conv", "op": "layer", "target": "conv", "args": [{"node": "x"}]},
               {"name": "relu", "op": "call", "target": "torch.relu", "args": [{"node": "conv"}]},
               {"name": "output", "op": "output", "target": "output", "args": [{"node": "relu"}]}],
     "layers": {"conv": {"class": "torch.nn.Conv2d", "settings": {"in_channels": 3, ...}}},
     "tensors": {"conv.weight": {"dtype": "float32", "shape": [8, 3, 3, 3], "parameter": true, "trains": true}, ...}}

The numbers of the tensors are not in it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import ModelError
from fxprune.passes.lowering import layer_name, layer_settings, methods, operator_name, why_not
from fxprune.pytorch.modules import canonical_names, named_tensors
from fxprune.pytorch.precision import dtype_name

from .values import NotWritable, is_name, to_json

OPS = {
    "placeholder": "input",
    "get_attr": "tensor",
    "call_module": "layer",
    "call_function": "call",
    "call_method": "method",
    "output": "output",
}


def graph_to_json(module: fx.GraphModule) -> dict[str, Any]:
    """Describe a graph module whose layers and functions are PyTorch's own.

    Args:
        module: the result of :func:`fxprune.passes.lowering.lower`.

    Raises:
        ModelError: a node or tensor cannot be written down; the message names it.
    """
    return {
        "name": name if is_name(name := type(module).__name__) else "Network",
        "nodes": [_node(module, node) for node in module.graph.nodes],
        "layers": _layers(module),
        "tensors": _tensors(module),
    }


def _node(module: fx.GraphModule, node: fx.Node) -> dict[str, Any]:
    value: dict[str, Any] = {"name": node.name, "op": OPS[node.op], "target": _target(module, node)}
    try:
        value["args"] = [to_json(each) for each in node.args]
        if node.kwargs:
            value["kwargs"] = {name: to_json(each) for name, each in node.kwargs.items()}
    except NotWritable as error:
        raise _refused(node, f"one of its arguments is {error}") from error
    return value


def _target(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_function":
        name = operator_name(node.target)
        if name is None or (why := why_not(node.target, node.args)):
            raise _refused(node, f"it is not in the list of functions{'' if name is None else f': {why}'}")
        return name
    target = str(node.target)
    if node.op == "call_method" and target not in methods():
        raise _refused(node, "it is not in the list of methods")
    if node.op == "get_attr" and not isinstance(attrgetter(target)(module), torch.Tensor):
        raise _refused(node, f"`{target}` is no tensor")
    return target


def _refused(node: fx.Node, why: str) -> ModelError:
    line = " ".join(str(node.format_node()).split())[:120]
    return ModelError(f"this network cannot be written down: node `{node}` ({line}): {why}.")


def _layers(module: fx.GraphModule) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for node in module.graph.find_nodes(op="call_module"):
        path = str(node.target)
        if path in layers:
            continue
        layer = module.get_submodule(path)
        name = layer_name(layer)
        if name is None:
            kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
            raise _refused(node, f"{kind} is not in the list of layers")
        try:
            settings = {key: to_json(each) for key, each in layer_settings(layer).items()}
        except (NotWritable, ValueError) as error:
            raise _refused(node, f"the settings of the layer hold {error}") from error
        layers[path] = {"class": name, "settings": settings}
    return layers


def _tensors(module: fx.GraphModule) -> dict[str, Any]:
    first = canonical_names(module)
    kept = set(module.state_dict(keep_vars=True))
    tensors: dict[str, Any] = {}
    for name, tensor in named_tensors(module):
        if first[name] != name:
            tensors[name] = {"same_as": first[name]}
            continue
        role: dict[str, Any] = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape)}
        if isinstance(tensor, nn.Parameter):
            role |= {"parameter": True, "trains": tensor.requires_grad}
        elif name not in kept:
            role["persistent"] = False
        tensors[name] = role
    return tensors
