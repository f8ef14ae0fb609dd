"""Find PyTorch's own layers and functions for what a foreign call computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune.capture import EvalOnly, SymbolicTracer, capture
from fxprune.equivalence import RANK, difference
from fxprune.errors import CaptureError, ModelError, first_line
from fxprune.pytorch.torch_private import OPERATOR_CLASSES, BatchNorm, tracer_class

from .layers import listed_base
from .settings import plain_layer

LAYER = "layer"


class _Host(nn.Module):
    """A network of one layer, which has the same names as that layer in a graph."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(LAYER, layer)

    def forward(self, *args: Any) -> Any:
        return self.get_submodule(LAYER)(*args)


def lowered_layer(layer: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> fx.GraphModule:
    """Return a graph of plain layers that computes what a call of a layer does.

    Raises:
        ModelError: there is none.
    """
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    host, inputs = _Host(layer), bound_arguments(layer, node, args, kwargs)
    reasons: list[str] = []
    for way in (_by_dropout, _by_base, _by_trace):
        try:
            found = way(host, layer, inputs)
        except (CaptureError, ValueError) as error:
            reasons.append(first_line(error))
            continue
        if found is None:
            continue
        differs = difference(host, found, inputs, stated={RANK})
        # A dropout draws other random numbers, of the same distribution.
        if why := differs.always or ("" if way is _by_dropout else differs.in_training):
            reasons.append(f"{why}{'' if differs.always else ' (in training mode)'}")
        else:
            return found
    raise _refused(node, layer, reasons[-1] if reasons else "nothing that computes the same is known")


def bound_arguments(layer: nn.Module, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return all arguments of a call in order.

    Raises:
        ModelError: some can be given by name only.
    """
    try:
        given = inspect.signature(layer.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise _refused(node, layer, str(error)) from error
    if given.kwargs:
        raise _refused(node, layer, f"it takes {', '.join(given.kwargs)} by name only")
    return given.args


def _refused(node: fx.Node, layer: Any, why: str) -> ModelError:
    kind = layer if callable(layer) and not isinstance(layer, nn.Module) else type(layer)
    operator = kind.__module__.startswith(OPERATOR_CLASSES)  # whose class has a name that pybind11 makes
    name = f"torch.ops.{kind}" if operator else f"{kind.__module__}.{getattr(kind, '__qualname__', kind)}"
    return ModelError(
        f"node `{node}` ({node.op} {node.target}) calls {name}, for which PyTorch's own layers and functions do not "
        f"stand in: {why}."
    )


def _by_base(host: nn.Module, layer: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule | None:
    """Try the class of PyTorch that the layer derives from."""
    kind = listed_base(layer)
    if kind is None or (next(layer.children(), None) is not None and not _is_idle(layer)):
        return None
    return _one_call(plain_layer(layer, kind), len(inputs))


def _is_idle(layer: nn.Module) -> bool:
    """Tell whether all children of a layer return what they get."""
    return all(type(child) is nn.Identity for child in layer.children())


def _one_call(layer: nn.Module, count: int) -> fx.GraphModule:
    graph = fx.Graph()
    given = tuple(graph.placeholder(f"input_{index}") for index in range(count))
    graph.output(graph.call_module(LAYER, given))
    return fx.GraphModule(_Host(layer), graph)


def _by_trace(host: nn.Module, layer: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule:
    """Trace the layer; its batch normalisation stays a layer."""
    traced = capture(host, inputs, decomposed=frozenset({LAYER}), ways=("symbolic", "concrete"))
    if isinstance(layer, BatchNorm):
        _keep_batch_norm(traced, layer)
    return traced


def _keep_batch_norm(traced: fx.GraphModule, layer: BatchNorm) -> None:
    """Replace the call of batch normalisation in a traced layer by the layer of PyTorch."""
    kind = listed_base(layer)
    calls = [node for node in traced.graph.nodes if node.target in (F.batch_norm, torch.batch_norm)]
    if kind is None or len(calls) != 1:
        return
    (call,) = calls
    plain = plain_layer(layer, kind)
    for name, child in layer.named_children():
        plain.add_module(name, child)
    traced.add_module(LAYER, plain)
    with traced.graph.inserting_before(call):
        made = traced.graph.call_module(LAYER, (call.args[0],))
    call.replace_all_uses_with(made)
    for node in reversed(traced.graph.nodes):
        refuses = node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), EvalOnly)
        unused = not node.users and node.op in ("get_attr", "call_function", "call_method") and not _writes(node)
        if refuses or unused:
            traced.graph.erase_node(node)
    traced.recompile()


def _writes(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op != "get_attr" and (name.endswith("_") or "guard" in name)


def _by_dropout(host: nn.Module, layer: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule | None:
    """Express a layer that drops samples, or the batch, by a dropout of ones."""
    from timm.layers import DropPath
    from torchvision.ops import StochasticDepth

    if type(layer) is DropPath:
        share, scaled, by_sample = float(vars(layer)["drop_prob"] or 0), bool(layer.scale_by_keep), True
    elif type(layer) is StochasticDepth:
        share, scaled, by_sample = float(vars(layer)["p"]), True, layer.mode == "row"
    else:
        return None
    graph = fx.Graph()
    x = graph.placeholder("input_0")
    if not share:
        graph.output(x)
        return fx.GraphModule(nn.Module(), graph)
    batch = graph.call_method("size", (x, 0)) if by_sample else 1
    ones = graph.call_method("new_ones", (x, (batch, *([1] * (inputs[0].dim() - 1)))))
    kept = graph.call_module(LAYER, (ones,))
    if not scaled:
        kept = graph.call_method("clamp", (kept,), {"max": 1.0})
    graph.output(graph.call_method("mul", (x, kept)))
    return fx.GraphModule(_Host(nn.Dropout(share)), graph)


def traced_call(node: fx.Node, values: dict[fx.Node, Any]) -> fx.Graph:
    """Record what a function of a library calls; its numbers stay open where its code allows."""
    tracer = SymbolicTracer(())
    tracer.root, tracer.graph = nn.Module(), fx.Graph(tracer_cls=tracer_class(node.graph))
    function = node.target
    assert callable(function)
    made: dict[fx.Node, Any] = {}
    for index, arg in enumerate(node.all_input_nodes):
        proxy = tracer.create_proxy("placeholder", f"input_{index}", (), {})
        # Code asks these what they are, and a proxy would answer otherwise.
        made[arg] = values[arg] if isinstance(values[arg], (type(None), bool, str)) else proxy
    args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        return _traced_on_example(node, values, error)
    tracer.create_node("output", "output", (tracer.create_arg(result),), {})
    if any(each.target is function for each in tracer.graph.nodes):  # it hides from a trace
        raise _refused(node, function, "it is not in the list of functions")
    return tracer.graph


class _FunctionModule(nn.Module):
    """A function as a network: its tensors are inputs, and everything else is constant."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        return self.call(*inputs)


def _traced_on_example(node: fx.Node, values: dict[fx.Node, Any], error: Exception) -> fx.Graph:
    """Record a function that decides by sizes, at those of the example."""
    nodes = list(node.all_input_nodes)
    function = node.target
    assert callable(function)

    def call(*inputs: Any) -> Any:
        now = dict(zip(nodes, inputs, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), now.__getitem__)
        return function(*args, **kwargs)

    try:
        return capture(_FunctionModule(call), tuple(values[each] for each in nodes), ways=("concrete",)).graph
    except Exception as second:
        raise _refused(node, function, first_line(second)) from error
