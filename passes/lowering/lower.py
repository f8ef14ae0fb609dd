"""Replace layers of foreign classes by PyTorch's own that compute the same.

Three ways, in this order; each result is compared with the layer, in eval and in training mode:

- PyTorch's class that the layer derives from, if it computes the same (most of timm's norms);
- what a trace of the layer records, in which a batch normalisation stays a layer;
- for layers that drop samples at random, a dropout of ones.

Functions of libraries are replaced by what they call, and outputs in classes of their own by records.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.modules import clone_sharing

from .layers import is_plain_layer
from .operators import operator_name
from .records import make_records
from .substitutes import LAYER, bound_arguments, lowered_layer, traced_call
from .values import meta_values


def lower(module: fx.GraphModule, example_inputs: Inputs) -> fx.GraphModule:
    """Copy a graph module, with PyTorch's own layers and functions in place of foreign ones.

    Returns:
        The copy; tensors keep their names.

    Raises:
        ModelError: a layer or function computes what PyTorch's own do not; the message names the node.
    """
    copied = clone_sharing(module)
    assert isinstance(copied, fx.GraphModule)
    make_records(copied.graph)
    result = fx.GraphModule(copied, copied.graph, class_name=type(module).__name__)  # without what no node reads
    result.meta = dict(module.meta)
    foreign = [node for node in result.graph.nodes if _is_foreign(result, node)]
    if not foreign:
        return result.eval() if not module.training else result
    values = meta_values(result, example_inputs)
    outer = tuple(f"{node.target}." for node in foreign if node.op == "call_module")
    layers: dict[str, nn.Module] = {}
    lowered: dict[str, fx.GraphModule] = {}
    for node in foreign:
        if node.op == "call_module" and str(node.target).startswith(outer):
            continue  # what replaces the layer around it may call it, too
        if node.op == "call_module":
            path = str(node.target)
            if path not in layers:
                layers[path] = result.get_submodule(path)
                lowered[path] = lowered_layer(layers[path], node, values)
                _install(result, path, lowered[path])
            given = bound_arguments(layers[path], node, node.args, node.kwargs)
            made = _inline(result.graph, node, lowered[path].graph, given, path)
        else:
            made = _inline(result.graph, node, traced_call(node, values), node.all_input_nodes)
        if isinstance(made, fx.Node):  # whose value the next foreign call may need
            values[made] = values[node]
    result.graph.lint()
    return lower(result, example_inputs)  # what replaces a foreign layer may hold further foreign ones


def _is_foreign(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return not is_plain_layer(module.get_submodule(str(node.target)))
    return node.op == "call_function" and operator_name(node.target) is None


def _install(module: fx.GraphModule, path: str, lowered: fx.GraphModule) -> None:
    """Put a lowered layer in place of the layer, beside what others read inside of it."""
    targets = {str(node.target) for node in module.graph.nodes if node.op in ("call_module", "get_attr")}
    inside = {target: attrgetter(target)(module) for target in targets if target.startswith(f"{path}.")}
    holder = nn.Module()
    owner, _, last = path.rpartition(".")
    module.get_submodule(owner).add_module(last, holder)
    for node in lowered.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        inner = _inner(str(node.target))
        if node.op == "call_module":
            _set(module, f"{path}.{inner}" if inner else path, lowered.get_submodule(str(node.target)))
        else:
            _set(module, f"{path}.{inner}", attrgetter(str(node.target))(lowered))
    for target, value in inside.items():
        _set(module, target, value)


def _inner(target: str) -> str:
    """Return a path within the host as a path within its layer."""
    return target.removeprefix(LAYER).removeprefix(".")


def _set(module: nn.Module, path: str, value: Any) -> None:
    """Set a layer, parameter or buffer at a path, and make the containers above it."""
    *above, last = path.split(".")
    owner = module
    for name in above:
        if not isinstance(getattr(owner, name, None), nn.Module):
            owner.add_module(name, nn.Module())
        owner = getattr(owner, name)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        owner.register_buffer(last, value, persistent=False)
    elif isinstance(value, nn.Module):
        for name, child in getattr(owner, last, nn.Module()).named_children():  # of a container made for these
            if name not in dict(value.named_children()):
                value.add_module(name, child)
        owner.add_module(last, value)
    else:
        setattr(owner, last, value)


def _inline(graph: fx.Graph, node: fx.Node, inner: fx.Graph, arguments: Sequence[Any], path: str = "") -> Any:
    """Replace a call by the nodes of another graph, whose placeholders stand for ``arguments``."""
    given = iter(arguments)
    env: dict[fx.Node, Any] = {}
    result: Any = None
    with graph.inserting_before(node):
        for each in inner.nodes:
            args = fx.map_arg(each.args, env.__getitem__)
            if each.op == "placeholder":
                env[each] = next(given)
            elif each.op == "output":
                result = args[0]
            elif "guard" in getattr(each.target, "__name__", "") and not isinstance(args[0], fx.Node):
                continue  # it holds for the constant that is given
            else:
                env[each] = graph.node_copy(each, env.__getitem__)
                if each.op in ("call_module", "get_attr"):
                    within = _inner(str(each.target))
                    env[each].target = ".".join(filter(None, (path, within)))
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    else:
        for user in list(node.users):
            user.args, user.kwargs = fx.node.map_arg(
                (user.args, user.kwargs), lambda arg: result if arg is node else arg
            )
    graph.erase_node(node)
    return result
