"""A call of the wide graph together with its place in the narrow graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.coupling import Coupling
from fxprune.errors import RewriteError
from fxprune.node_facts import Codes, Shape
from fxprune.plans import Plan
from fxprune.pytorch import call_targets
from fxprune.pytorch.torch_private import pytree

from .axes import AxisOrders

WIDE = "fxprune_wide"
# The number that a narrow node has at the analysed input.
EXAMPLE = "fxprune_example"


def standing_for(wide: fx.Node, made: fx.Node) -> fx.Node:
    """Record on a narrow node the wide node that it replaces; their names may differ."""
    made.meta = {**wide.meta, WIDE: wide.name}
    return made


def product(graph: fx.Graph, factors: Sequence[Any]) -> Any:
    """Multiply numbers at once, and nodes by calls."""
    total: Any = 1
    for factor in factors:
        if isinstance(factor, int) and isinstance(total, int):
            total *= factor
        elif not (isinstance(factor, int) and factor == 1):
            total = factor if total == 1 else graph.create_node("call_function", operator.mul, (total, factor))
    return total


@dataclass(frozen=True, eq=False)
class Site:
    """A call of the wide graph together with its place in the narrow graph.

    Attributes:
        graph: the narrow graph, under construction.
        node: the call in the wide graph.
        args: positional arguments in the narrow graph: nodes, and numbers where they are known.
        kwargs: keyword arguments, likewise.
        coupling: the analysis, with the shapes of every wide node.
        plan: says which channels stay.
        orders: says where flattened axes hold channels for other inputs.
    """

    graph: fx.Graph
    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    coupling: Coupling
    plan: Plan
    orders: AxisOrders

    def shape_of(self, index: int) -> Shape:
        """Return the wide shape of argument ``index``, with codes only on axes that become narrower."""
        return self.narrowing(self.wide_of(index))

    def wide_of(self, index: int) -> Shape:
        """Return the wide shape of argument ``index``, with the codes of all its channels."""
        given = call_targets.positional(self.node.target, self.node.args, self.node.kwargs)[0][index]
        value = self.coupling.nodes[given.name].value if isinstance(given, fx.Node) else None
        if not isinstance(value, Shape):
            raise RewriteError(f"argument {index} of node `{self.node}` is not a tensor of the graph.")
        return value

    @property
    def value(self) -> Any:
        """Return what the wide call returns, as shapes with codes only on axes that become narrower."""
        return pytree.tree_map_only(Shape, self.narrowing, self.coupling.nodes[self.node.name].value)

    def narrowing(self, shape: Shape) -> Shape:
        """Leave codes only on axes that become narrower."""
        axes = tuple(None if codes is None or self.plan.kept[codes].all() else codes for codes in shape.axes)
        return Shape(shape.sizes, axes, shape.varying)

    @property
    def kind(self) -> call_targets.CallTarget | None:
        """The canonical form of this call."""
        return call_targets.call_kind(self.node)

    def kept(self, codes: Codes) -> Any:
        """Tell which positions of an axis stay, as bool [length]."""
        return self.plan.kept[codes]

    def copy(self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any = None) -> fx.Node:
        """Copy the call with other arguments, under its old name."""
        made = self.graph.create_node(
            self.node.op, target or self.node.target, args, kwargs, self.node.name, self.node.type
        )
        return standing_for(self.node, made)

    def call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        """Add a call that has no counterpart in the wide graph."""
        return self.graph.create_node("call_function", function, args, {}, f"{self.node.name}_narrow")

    def narrow(self, wide: fx.Node) -> fx.Node | None:
        """Return the node of the narrow graph that stands for one of the wide graph, if any does."""
        return next((each for each in reversed(self.graph.nodes) if each.meta.get(WIDE) == wide.name), None)

    def guard_length(self, dim: int, shape: Shape) -> None:
        """Guard the length of an axis of the first argument in which this call names places."""
        codes = shape.axes[dim]
        if dim in shape.varying and codes is not None:
            self.call(guard_equal, self.length(dim), int(self.kept(codes).sum()), f"size {dim} before `{self.node}`")

    def number(self, number: Any) -> Any:
        """Return a number that this call names among channels, guarded if the model computes it."""
        if isinstance(number, fx.Node):
            self.call(guard_equal, number, number.meta[EXAMPLE], f"a place among channels at `{self.node}`")
            return number.meta[EXAMPLE]
        return number

    def length(self, dim: int) -> fx.Node:
        """Add a call that reads the length of an axis of the first argument at run time."""
        return self.graph.create_node("call_method", "size", (self.args[0], dim), {}, f"{self.node.name}_size")

    def share_of(self, size: Any, share: Fraction) -> fx.Node:
        """Add calls that multiply a computed size by a share, and guard that no rest is left."""
        scaled = self.call(operator.mul, size, share.numerator)
        if share.denominator > 1:
            rest = self.call(operator.mod, scaled, share.denominator)
            self.call(guard_equal, rest, 0, f"the rest of a size in `{self.node.name}`")
        return self.call(operator.floordiv, scaled, share.denominator)

    def parameter(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name, for which ``dim`` may be ``axis``."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get("axis" if name == "dim" and "axis" in self.kwargs else name, default)
