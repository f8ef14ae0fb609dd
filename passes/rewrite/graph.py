"""Build the narrow graph: each literal that counts channels gets the new number.

Three rules make it exact. A *read* of the length of an axis with channels becomes the old number, so that arithmetic on
sizes (heads, scales, factors) gives the same results as before. A *size argument* for an axis with channels becomes the
new number. A *position* among channels (slice, split, padding) becomes the position among the kept ones. The model
still computes the sizes of batch and space.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs, as_meta, in_order, inputs_for, tensors_of
from fxprune.coupling import Coupling
from fxprune.errors import RewriteError, kind_and_line
from fxprune.node_facts import Shape
from fxprune.plans import Plan
from fxprune.pytorch.call_targets import (
    EXPANSIONS,
    FACTORIES,
    REPEATS,
    call_kind,
    positional,
    reads_sizes,
    scales_input,
)
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, device_of, to_meta
from fxprune.pytorch.torch_private import pytree, tracer_class, versions_of

from .axes import AxisOrders
from .calls import CASES
from .cuts import guard_cuts
from .indexing import put_back
from .places import guard_inputs, guard_places
from .site import EXAMPLE, WIDE, Site, product
from .sums import scaled_input


def narrow_sizes(plan: Plan, shape: Shape) -> tuple[int, ...]:
    """Return the sizes of a tensor in the narrow network, at the analysed input."""
    return tuple(
        size if codes is None else int(plan.kept[codes].sum())
        for size, codes in zip(shape.sizes, shape.axes, strict=True)
    )


def rewrite(coupling: Coupling, plan: Plan) -> fx.Graph:
    """Copy the captured graph and adapt the copy to a plan."""
    graph = fx.Graph(tracer_cls=tracer_class(coupling.graph_module.graph))
    env: dict[fx.Node, Any] = {}
    orders = AxisOrders(coupling)
    unsure = _unsure(coupling, orders)
    for node in coupling.graph_module.graph.nodes:
        if _reads_sizes(node, coupling):
            env[node] = _sizes_read(graph, node, env, plan, unsure=node in unsure)
        else:
            env[node] = _copy(graph, node, env, plan, orders)
        if isinstance(env[node], fx.Node) and isinstance(number := coupling.nodes[node.name].value, int):
            env[node].meta[EXAMPLE] = number
    for made in reversed(graph.nodes):
        # Remove the sizes that nothing uses. What the model itself computes stays, used or not.
        may_go = WIDE not in made.meta or made.op == "get_attr"
        if (may_go and not made.users and not made.is_impure()) or _holds(made):
            graph.erase_node(made)
    return graph


def _holds(node: fx.Node) -> bool:
    """Tell whether a node guards a number that is known, as one of channels."""
    return node.target is guard_equal and not node.all_input_nodes and bool(node.args[0] == node.args[1])


def _copy(graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any], plan: Plan, orders: AxisOrders) -> Any:
    coupling = orders.coupling
    if node.op == "output":
        return graph.output(fx.map_arg(node.args[0], env.__getitem__))
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    folded = _fold(graph, node, args, kwargs)
    if folded is not None:
        return folded[0]
    case = CASES.get(call_kind(node)) if node.op in ("call_function", "call_method") else None
    if case is not None:
        args, kwargs = positional(node.target, args, kwargs)
    site = Site(graph, node, tuple(args), dict(kwargs), coupling, plan, orders)
    if orders.are_unsure(node, site.narrowing):
        guard_inputs(site)
    if scales_input(node) and (scaled := scaled_input(site)) is not None:
        args = (scaled, *args[1:])
        site = replace(site, args=args)
    guard_places(site)
    made = case(site) if case is not None else None
    made = site.copy(tuple(args), dict(kwargs)) if made is None else made
    guard_cuts(site, made)
    if view := coupling.nodes[node.name].put_back:
        put_back(site, next(env[wide] for wide in env if wide.name == view))
    return made


def _unsure(coupling: Coupling, orders: AxisOrders) -> set[fx.Node]:
    """Return the nodes behind an axis of channels whose length may agree by chance."""
    found: set[fx.Node] = set()
    for node in coupling.graph_module.graph.nodes:
        facts = coupling.nodes[node.name]
        if facts.guarded or not found.isdisjoint(node.all_input_nodes) or _leaves_channels(node, orders):
            found.add(node)
        elif call_kind(node) in EXPANSIONS | REPEATS | FACTORIES and isinstance(facts.value, Shape):
            counts = [coupling.nodes[given.name].value for given in node.all_input_nodes]
            on = [size for size, codes in zip(facts.value.sizes, facts.value.axes, strict=True) if codes is not None]
            if any(isinstance(count, int) and count in on for count in counts):
                found.add(node)
    return found


def _leaves_channels(node: fx.Node, orders: AxisOrders) -> bool:
    """Tell whether a view may have an axis of channels of another length for other inputs."""
    shape = orders.coupling.nodes[node.name].value
    if not orders.sources.view_kind(node) or not isinstance(shape, Shape):
        return False
    alone = [dim for dim, codes in enumerate(shape.axes) if codes is not None and dim not in shape.varying]
    return any(orders.lengths.stated(node, dim).powers for dim in alone)


def _reads_sizes(node: fx.Node, coupling: Coupling) -> bool:
    tensor = node.args[0] if node.args else None
    return reads_sizes(node) and isinstance(tensor, fx.Node) and isinstance(coupling.nodes[tensor.name].value, Shape)


def _sizes_read(graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any], plan: Plan, *, unsure: bool) -> Any:
    """Read a length as a literal for an axis with channels alone, as a node for any other axis.

    Where it is ``unsure`` that the axis holds channels at other sizes of inputs, its length is a literal only if
    channels leave: then it is guarded where it is made.
    """
    args: Any = fx.map_arg(node.args, env.__getitem__)
    tensor, *rest = args
    name = node.target if isinstance(node.target, str) else "numel" if node.target is torch.numel else node.args[1]
    wide = node.args[0]
    assert isinstance(wide, fx.Node)
    shape: Shape = plan.coupling.nodes[wide.name].value

    def length(dim: int) -> Any:
        codes = shape.axes[dim]
        if codes is not None and dim not in shape.varying and not (unsure and plan.kept[codes].all()):
            return shape.sizes[dim]
        size = graph.create_node("call_method", "size", (tensor, dim), {}, f"{node.name}_size")
        kept = shape.sizes[dim] if codes is None else int(plan.kept[codes].sum())
        if codes is None or kept == shape.sizes[dim]:
            return size
        if len(set(np.unique(codes, return_counts=True)[1].tolist())) > 1:  # channels that repeat unequally
            graph.create_node("call_function", guard_equal, (size, kept, f"size {dim} before `{node.name}`"), {})
            return shape.sizes[dim]
        share = Fraction(shape.sizes[dim], kept)
        times = graph.create_node("call_function", operator.mul, (size, share.numerator), {})
        return graph.create_node("call_function", operator.floordiv, (times, share.denominator), {})

    if name in ("dim", "ndim"):
        guarded = all(user.target is guard_equal for user in node.users)
        return graph.node_copy(node, lambda _: tensor) if guarded else len(shape.sizes)
    if name == "__len__":
        return length(0)
    if name in ("numel", "nelement"):
        return product(graph, [length(dim) for dim in range(len(shape.sizes))])
    dim: Any = node.kwargs.get("dim", rest[0] if name == "size" and rest else None)
    return tuple(map(length, range(len(shape.sizes)))) if dim is None else length(dim % len(shape.sizes))


def _fold(graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any) -> tuple[Any] | None:
    """Evaluate a call on known numbers and tuples; None if it must stay a call.

    The result comes in a tuple of one, since it may be None itself.
    """
    if node.op == "call_method" and node.target == "numel" and isinstance(args[0], tuple):
        return (product(graph, args[0]),)
    if node.target is getattr or not args:
        return None
    known = not any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves((args, kwargs)))
    is_tuple = isinstance(args[0], tuple)
    if is_tuple and node.target is operator.getitem and not _is_computed(args[1]):
        return (args[0][args[1]],)
    if is_tuple and node.target is operator.add and isinstance(args[1], tuple):
        return (args[0] + args[1],)
    if known and getattr(node.target, "__module__", "") in ("_operator", "math", "builtins"):
        return (node.target(*args, **kwargs),)  # type: ignore[operator]
    return None


def _is_computed(index: Any) -> bool:
    """Tell whether an index, or a bound of a slice, is a node."""
    bounds = (index.start, index.stop, index.step) if isinstance(index, slice) else (index,)
    return any(isinstance(bound, fx.Node) for bound in bounds)


def check_shapes_of(module: fx.GraphModule, plan: Plan) -> dict[fx.Node, Any]:
    """Run the narrow graph on the meta device and check the shape of every node.

    Returns:
        What each node returned.

    Raises:
        RewriteError: a node does not run or lacks the shape that the plan demands; the message names the first one.
    """
    return run_on_meta(module, plan.coupling.example_inputs, plan)[0]


def run_on_meta(
    module: fx.GraphModule, inputs: Inputs, plan: Plan | None = None
) -> tuple[dict[fx.Node, Any], dict[fx.Node, int]]:
    """Run a graph on the meta device, check it against a plan, and return values and versions."""
    interpreter = _ShapeCheck(to_meta(module), module.graph, plan, device_of(module))
    try:
        with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
            interpreter.run(*in_order(module.graph, inputs_for(module, as_meta(inputs))))
    except RewriteError:
        raise
    except Exception as error:
        raise RewriteError(
            f"the narrow graph does not run: node `{interpreter.now}` ({interpreter.now.format_node()}): "
            + kind_and_line(error)
        ) from error
    return interpreter.env, interpreter.versions


class _ShapeCheck(OnMeta):
    def __init__(self, root: torch.nn.Module, graph: fx.Graph, plan: Plan | None, device: torch.device) -> None:
        super().__init__(root, graph, device, garbage_collect_values=False)
        self.plan = plan
        self.now: fx.Node = next(iter(graph.nodes))
        self.versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.now = n
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            (self.versions[n],) = versions_of([value])
        facts = self.plan.coupling.nodes.get(n.meta.get(WIDE, "")) if self.plan is not None else None
        if facts is None or self.plan is None or n.op == "output":
            return value
        wanted = [narrow_sizes(self.plan, leaf) for leaf in pytree.tree_leaves(facts.value) if isinstance(leaf, Shape)]
        found = [tuple(tensor.shape) for tensor in tensors_of(value)]
        if wanted != found:
            raise RewriteError(
                f"node `{n}` ({n.format_node()}) has shape {found} in the narrow graph; the plan demands {wanted}."
            )
        return value
