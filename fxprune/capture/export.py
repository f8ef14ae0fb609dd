"""Capture by ``torch.export``: a graph of ATen operations, for models that cannot be traced.

Such a graph has no layers: it reads parameters under their own names and has sizes as literals of operators. Everything
that export assumes must hold wherever the graph runs, or the capture fails: the batch is dynamic, all other sizes are
those of the example, and the network is in eval mode.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import re
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from fxprune.arguments.guards import SpecialisedError, guard_dtype, guard_equal
from fxprune.arguments.inputs import Inputs
from fxprune.common.silence import silenced
from fxprune.errors import CaptureError
from fxprune.pytorch.modules import canonical_names, map_tensors, named_tensors
from fxprune.pytorch.torch_private import (
    OpOverload,
    assumptions_of,
    batch_left_open,
    depends_on_data,
    fake_tensor_mode,
    pytree,
    storage_id,
    with_effect,
)

from .export_constants import constants_unknown, writes_to_constants
from .tracing import SymbolicTracer, arguments

# Checks of dtypes and devices, which may change after the capture.
_CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)
_SIZES = {torch.ops.aten.sym_size.int: "size", torch.ops.aten.sym_numel.default: "numel"}
_SAME_BATCH = re.compile(r"L\['[^']*'\]\S*\.size\(\)\[0\] == L\['[^']*'\]\S*\.size\(\)\[0\]")
_MORE_THAN_ONE = re.compile(r"L\['[^']*'\]\S*\.size\(\)\[0\] (>|!=) 1|1 (<|!=) L\['[^']*'\]\S*\.size\(\)\[0\]")
EVAL_ONLY = "fxprune_eval_only"


@with_effect
class EvalOnly(nn.Module):
    """A layer that raises an error unless the network is in eval mode, as in the capture.

    The operators would also run in training mode, but the graph lacks what the model does only there. If only
    ``operations`` were captured, it also lacks the decisions of the model under autocast.
    """

    def __init__(self, why: str = "", *, operations: bool = False) -> None:
        """Give the reason for the error message."""
        super().__init__()
        self.why = why or "torch.export sees what the model does in eval mode only"
        self.operations = operations

    def forward(self) -> None:
        """Raise an error in training mode, or under autocast.

        Raises:
            SpecialisedError: always in training mode; under autocast if the dtypes of operations are literals.
        """
        if self.training:
            raise SpecialisedError(
                f"captured in eval mode, since {self.why}: call `.eval()`, or train the model itself."
            )
        kinds = ("cpu", "cuda") if self.operations and not torch.compiler.is_compiling() else ()
        if any(torch.is_autocast_enabled(kind) for kind in kinds):
            raise SpecialisedError(
                "captured through torch.export, which writes the precision of each operation down: leave autocast, or "
                "convert the network to the precision that is meant."
            )


def trace_exported(model: nn.Module, inputs: Inputs) -> tuple[fx.Graph, dict[str, Any]]:
    """Export a model as a graph of ATen operations; also return its further tensors, by name.

    Args:
        model: any module in eval mode.
        inputs: arguments of ``forward``; axis 0 of tensors is the batch.

    Raises:
        CaptureError: the graph would depend on the number of samples or on values of tensors.
    """
    tracer = SymbolicTracer(inputs)
    tracer.root, tracer.graph = model, fx.Graph(tracer_cls=SymbolicTracer)
    tracer.create_proxy("call_module", EVAL_ONLY, (), {})
    given: dict[str, Any] = {}
    positional, named = arguments(tracer, type(model).forward, inputs, given)
    names = [str(node.target) for node in tracer.graph.find_nodes(op="placeholder")]
    args, kwargs = [given[name] for name in names[: len(positional)]], {name: given[name] for name in named}
    several = False
    with silenced():
        program = _export(model, args, kwargs)
        if writes_to_constants(program.graph):  # through a view, after which PyTorch still knows the number of before
            with constants_unknown():
                program = _export(model, args, kwargs)
        lifted = program.module(check_guards=False)
        assert isinstance(lifted, fx.GraphModule)
        _check_operations(lifted.graph)
        assumed = [code for code in assumptions_of(program) if not _SAME_BATCH.fullmatch(code)]
        # Export also asks strides whether there is more than one sample, where the answer changes nothing.
        if assumed and all(_MORE_THAN_ONE.fullmatch(code) for code in assumed):
            several = not equal_at_batch_one(_export(model, args, kwargs, one=True).graph, program.graph)
            assumed = []
    if assumed:
        raise CaptureError(f"the model decides something by the number of samples: {assumed[0]}")
    keys = program.call_spec.in_spec.child(1).context
    proxies = pytree.tree_leaves((positional, {name: named[name] for name in keys}))
    values = pytree.tree_leaves((args, {name: kwargs[name] for name in keys}))
    if several:
        _guard_several(tracer, next(proxy for proxy, x in zip(proxies, values, strict=True) if _has_batch(x)))
    _guard_sizes(tracer, proxies, values)
    first = canonical_names(model)
    for node in lifted.graph.find_nodes(op="get_attr"):  # other ways read a shared tensor under this name, too
        node.target = first.get(str(node.target), node.target)
    _translate(tracer, lifted.graph, proxies, program.call_spec.out_spec)
    _guard_weights(tracer, model)
    own = {name for name, _ in named_tensors(model)}
    free = (name for name in map("_tensor_constant{}".format, itertools.count()) if not hasattr(model, name))
    names_of: dict[str, str] = {}  # as torch.fx calls them, so that they keep their precision
    for node in tracer.graph.find_nodes(op="get_attr"):
        if (name := str(node.target)) not in own:
            node.target = names_of.setdefault(name, names_of.get(name) or next(free))
    constants = {names_of[name]: operator.attrgetter(name)(lifted) for name in names_of}
    stored = {storage_id(tensor) for _, tensor in named_tensors(model) if tensor.numel()}
    made = [each for each in constants.values() if isinstance(each, torch.Tensor) and each.numel()]
    if any(storage_id(each) in stored for each in made):
        raise CaptureError("the model holds a parameter or buffer also where it has no name, as in a closure")
    return tracer.graph, constants


def _export(model: nn.Module, args: list[Any], kwargs: dict[str, Any], *, one: bool = False) -> ExportedProgram:
    """Export with a dynamic batch axis that may even be 1; ``one``: at batch 1."""
    weights = [tensor for _, tensor in named_tensors(model)]
    without = any(tensor.is_meta for tensor in weights)
    device = torch.device("cpu") if without or not weights else weights[0].device
    with fake_tensor_mode(allow_non_fake_inputs=True) if without else contextlib.nullcontext():
        if without:
            model = map_tensors(model, lambda _, tensor: torch.empty_like(tensor, device=device))

        samples = next((x.shape[0] for x in pytree.tree_leaves((args, kwargs)) if _has_batch(x)), 0)

        def example(x: torch.Tensor) -> torch.Tensor:
            batch = 1 if one and x.dim() and x.shape[0] == samples else max(2, x.shape[0]) if x.dim() else 0
            return torch.zeros((batch, *x.shape[1:]) if x.dim() else (), dtype=x.dtype, device=device)

        args, kwargs = pytree.tree_map_only(torch.Tensor, example, (args, kwargs))
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if _has_batch(leaf)]
    free = ShapesCollection()
    for tensor in tensors:
        if not one and tensor.shape[0] == tensors[0].shape[0]:
            free[tensor] = {0: Dim.DYNAMIC}
    shapes = free.dynamic_shapes(model, tuple(args), kwargs)
    with torch.no_grad(), batch_left_open():
        return torch.export.export(model, tuple(args), kwargs, dynamic_shapes=shapes, strict=False)


def _has_batch(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def equal_at_batch_one(one: fx.Graph, many: fx.Graph) -> bool:
    """Tell whether the graph for one sample equals the other one with a batch of 1."""
    left, right = ([n for n in graph.nodes if not _makes_number(n)] for graph in (one, many))
    place = {node: index for nodes in (left, right) for index, node in enumerate(nodes)}

    def equal(a: Any, b: Any) -> bool:
        if isinstance(b, fx.Node) and _makes_number(b):
            value = b.meta["val"]
            if not isinstance(value, torch.SymInt):
                return bool(value == a)
            number = value.node.expr
            return bool(number.subs(dict.fromkeys(number.free_symbols, 1)) == a)
        if isinstance(a, fx.Node) or isinstance(b, fx.Node):
            return isinstance(a, fx.Node) and isinstance(b, fx.Node) and place.get(a) == place.get(b)
        return type(a) is type(b) and bool(a == b)

    def alike(a: fx.Node, b: fx.Node) -> bool:
        (given, kind), (wanted, other) = (pytree.tree_flatten((n.args, dict(n.kwargs))) for n in (a, b))
        return (a.op, a.target) == (b.op, b.target) and kind == other and all(map(equal, given, wanted))

    return len(left) == len(right) and all(map(alike, left, right))


def _makes_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(
        node.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat)
    )


def _check_operations(graph: fx.Graph) -> None:
    """Raise CaptureError for an operation that depends on values, or that hides a graph."""
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output") or node.target is operator.getitem:
            continue
        if depends_on_data(node.meta.get("val")):
            raise CaptureError(f"`{node.target}` makes numbers or sizes out of values of a tensor")
        if isinstance(node.target, OpOverload):
            continue
        if node.op != "call_function" or not _is_arithmetic(node.target):
            raise CaptureError(f"`{node.target}` keeps a part of the model as a graph of its own")


def _is_arithmetic(target: Any) -> bool:
    return getattr(target, "__module__", None) in ("_operator", "math", "builtins", "torch")


def _guard_several(tracer: SymbolicTracer, first: Any) -> None:
    """Guard a graph that holds for two samples and more."""
    several = tracer.create_proxy("call_function", operator.gt, (first.size(0), 1), {})
    _guard(tracer, several, True, f"`{_argument_name(first.node)}` has two samples or more")


def _guard_sizes(tracer: SymbolicTracer, proxies: list[Any], values: list[Any]) -> None:
    """Guard what the graph has as literals: precisions, and all sizes but the common batch."""
    for proxy, x in zip(proxies, values, strict=True):
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            read = tracer.create_proxy("call_function", getattr, (proxy, "dtype"), {})
            where = f"the precision of `{_argument_name(proxy.node)}`"
            tracer.create_proxy("call_function", guard_dtype, (read, x.dtype, where), {})
    tensors = [(proxy, x) for proxy, x in zip(proxies, values, strict=True) if isinstance(x, torch.Tensor) and x.dim()]
    for place, (proxy, x) in enumerate(tensors):
        own = place and x.shape[0] != tensors[0][1].shape[0]
        for dim in range(0 if own else 1, x.dim()):
            _guard(tracer, proxy.size(dim), x.shape[dim], f"size {dim} of `{_argument_name(proxy.node)}`")
        if place and not own:
            same = tracer.create_proxy("call_function", operator.eq, (proxy.size(0), tensors[0][0].size(0)), {})
            _guard(tracer, same, True, f"one batch size in `{_argument_name(proxy.node)}` and others")


def _guard(tracer: SymbolicTracer, value: fx.Proxy, expected: object, about: str) -> None:
    tracer.create_proxy("call_function", guard_equal, (value, expected, about), {})


def _argument_name(node: Any) -> str:
    """Name an argument of ``forward``, or a member of one: ``images[0]``."""
    if node.op == "placeholder":
        return str(node.target)
    inside, key = node.args
    return f"{_argument_name(inside)}{f'.{key}' if node.target is getattr else f'[{key!r}]'}"


def _guard_weights(tracer: SymbolicTracer, model: nn.Module) -> None:
    """Guard the precisions of stored tensors, by one tensor of each."""
    read = {str(node.target): node for node in reversed(tracer.graph.find_nodes(op="get_attr"))}
    kinds = {t.dtype: name for name, t in reversed(named_tensors(model)) if t.is_floating_point() and name in read}
    for dtype, name in kinds.items():
        with tracer.graph.inserting_before(read[name].next):
            found = tracer.graph.call_function(getattr, (read[name], "dtype"))
            tracer.graph.call_function(guard_dtype, (found, dtype, f"the precision of `{name}`"))


def _translate(tracer: SymbolicTracer, graph: fx.Graph, proxies: list[Any], out_spec: pytree.TreeSpec) -> None:
    """Copy the operations in the form that the rewrite knows.

    Reads of sizes become calls of ``size``, and new tensors are made on the device of the input.
    """
    env: dict[fx.Node, Any] = {}
    for node, proxy in zip(graph.find_nodes(op="placeholder"), proxies, strict=True):
        env[node] = proxy.node if isinstance(proxy, fx.Proxy) else proxy
    first = next((proxy for proxy in proxies if isinstance(proxy, fx.Proxy)), None)
    device = None if first is None else tracer.create_proxy("call_function", getattr, (first, "device"), {}).node
    for node in graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
        if node.op == "output":
            leaves = [fx.Proxy(leaf, tracer) if isinstance(leaf, fx.Node) else leaf for leaf in args[0]]
            tracer.create_node("output", "output", (tracer.create_arg(pytree.tree_unflatten(leaves, out_spec)),), {})
        elif node.target in _SIZES:
            env[node] = tracer.graph.create_node("call_method", _SIZES[node.target], args, kwargs, node.name)
        elif node.op != "placeholder" and node.target not in _CHECKS and not (node.op == "get_attr" and not node.users):
            if device is not None:
                args, kwargs = pytree.tree_map_only(torch.device, lambda _: device, (args, kwargs))
            env[node] = tracer.graph.create_node(node.op, node.target, tuple(args), dict(kwargs), node.name)
            env[node].meta = {key: node.meta[key] for key in ("stack_trace",) if key in node.meta}
