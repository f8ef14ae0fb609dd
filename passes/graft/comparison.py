"""A literal of the narrow graph stands beside what provides it in the original class."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.capture import capture, without_objects
from fxprune.passes.rewrite import WIDE
from fxprune.plan_file import outputs_of
from fxprune.pytorch.call_targets import positional
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.modules import clone_sharing
from fxprune.pytorch.source import source_of

from .computed_weights import Computed, computed_weights
from .provenance import Attribute, Number, Term, Traced, assign, attributes_of, number, numbers_of, plain, term_of


@dataclass(frozen=True)
class Literal:
    """A number at one node: in the wide graph, and in the narrow one.

    Attributes:
        node: name of the wide node.
        source: line of the model.
        term: where the wide number comes from; itself if the model's code holds it.
        wide: the wide number; None where the model reads the length of an axis.
        narrow: the narrow number.
    """

    node: str
    source: str
    term: Term
    wide: Number | None
    narrow: Number

    def __str__(self) -> str:
        names = ", ".join(f"`{each}`" for each in dict.fromkeys(attributes_of(self.term)))
        origin = f" from {names}" if names else " from the length of an axis" if self.wide is None else ""
        number = "the size" if self.wide is None else f"the number {self.wide}"
        return f"{number}{origin} at {self.source}, which is {self.narrow} in the narrow network"


@dataclass(frozen=True)
class Multiplier:
    """A number that the narrow graph multiplies the result of a wide node by."""

    node: str
    source: str
    number: Number

    def __str__(self) -> str:
        return f"the factor {self.number:.6g} of a merged sum at {self.source}, which no weight takes"


@dataclass(frozen=True)
class Comparison:
    """The literals of a wide graph beside those of the narrow one.

    Attributes:
        wide: the wide graph, traced with numbers that know their attribute.
        values: every attribute of the model's own code, with its wide number.
        literals: one for each number in the narrow graph, in the order of the graph.
        computed: the weights that the narrow graph reads where the wide one computes them.
        factors: what the narrow graph multiplies sums over merged channels by.
    """

    wide: fx.GraphModule
    values: Mapping[Attribute, Number]
    literals: tuple[Literal, ...]
    computed: Computed
    factors: tuple[Multiplier, ...]

    @property
    def used(self) -> set[Attribute]:
        """The attributes that the forward reads, and whose numbers are therefore proved."""
        return {attribute for literal in self.literals for attribute in attributes_of(literal.term)}


def compared(model: nn.Module, narrow: fx.GraphModule, inputs: Inputs) -> Comparison:
    """Trace a model with numbers that know their attribute, beside the narrow graph."""
    called = {str(node.target) for node in narrow.graph.nodes if node.op == "call_module"}
    layers = dict(model.named_modules())
    decomposed = frozenset(name for name, layer in layers.items() if is_shaped(layer) and name not in called)
    inside = {name for name in layers if any(f"{name}.".startswith(f"{leaf}.") for leaf in called)}
    values: dict[Attribute, Number] = {}
    for name, layer in layers.items():
        if name not in inside:
            values |= numbers_of(name, layer)
    twin = clone_sharing(model).eval()
    assign(twin, {attribute: number(value, attribute) for attribute, value in values.items()})
    way = narrow.meta.get("fxprune_capture")
    ways = ("symbolic", "concrete") if way is None else (way,)
    if (outputs := outputs_of(narrow)) is not None:
        twin = without_objects(twin, outputs)
    wide = capture(twin, inputs, decomposed=decomposed, ways=ways, check=False)
    pairs = list(_node_pairs(wide.graph, narrow.graph))
    return Comparison(wide, values, tuple(_literals(pairs)), computed_weights(model, pairs), tuple(_factors(pairs)))


def _node_pairs(wide: fx.Graph, narrow: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node]]:
    made = {node.meta.get(WIDE, node.name): node for node in narrow.nodes}
    for node in wide.nodes:
        twin = made.get(node.name)
        if twin is not None and node.op in ("call_function", "call_method", "call_module"):
            yield node, twin


def _factors(pairs: Sequence[tuple[fx.Node, fx.Node]]) -> Iterator[Multiplier]:
    """List what the narrow graph multiplies a result by, or what a layer reads."""
    paired = {twin for _, twin in pairs}
    for node, twin in pairs:
        read = twin.args[0] if twin.args else None
        if _is_factor(node, twin):
            yield Multiplier(node.name, source_of(node), twin.args[1])  # type: ignore[arg-type]
        elif isinstance(read, fx.Node) and read not in paired and _is_times(read):
            yield Multiplier(node.name, source_of(node), read.args[1])  # type: ignore[arg-type]


def _is_times(node: fx.Node) -> bool:
    return node.target is operator.mul and isinstance(node.args[0], fx.Node) and _is_number(node.args[1])


def _is_factor(node: fx.Node, twin: fx.Node) -> bool:
    """Tell whether the narrow node multiplies what the wide one returns."""
    return twin.target is operator.mul is not node.target and _is_number(twin.args[1])


def _literals(pairs: Iterable[tuple[fx.Node, fx.Node]]) -> Iterator[Literal]:
    for node, twin in pairs:
        if _is_factor(node, twin):
            twin = twin.args[0]  # type: ignore[assignment]
        (args, kwargs), (new_args, new_kwargs) = (positional(n.target, n.args, n.kwargs) for n in (node, twin))
        # The rewrite may give the last arguments by position.
        shared = min(len(args), len(new_args))
        for a, b in _pairs((args[:shared], kwargs), (new_args[:shared], new_kwargs)):
            yield Literal(node.name, source_of(node), term_of(a) if _is_number(a) else b, _plain(a), b)


def _plain(value: Any) -> Number | None:
    return plain(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pairs(wide: Any, narrow: Any) -> Iterator[tuple[Any, Number]]:
    """Yield numbers of the narrow arguments, with what stands there in the wide ones."""
    if _is_number(narrow):
        if _is_number(wide) or isinstance(wide, fx.Node):
            yield wide, narrow
    elif isinstance(narrow, list | tuple):
        if isinstance(wide, list | tuple) and len(wide) == len(narrow):
            for a, b in zip(wide, narrow, strict=True):
                yield from _pairs(a, b)
        elif isinstance(wide, fx.Node) and wide.target is operator.add and isinstance(wide.args[1], tuple):
            place = len(narrow) - len(wide.args[1])  # ``x.shape[:-1] + (width,)``
            for a, b in ((wide.args[0], narrow[:place]), (wide.args[1], narrow[place:])):
                yield from _pairs(a, b)
        elif isinstance(wide, Traced) and narrow:  # pieces of one length, given as the list of their lengths
            yield from _pairs(wide, narrow[0])
    elif isinstance(narrow, dict) and isinstance(wide, dict):
        for key in narrow.keys() & wide.keys():
            yield from _pairs(wide[key], narrow[key])
    elif isinstance(narrow, slice) and isinstance(wide, slice):
        for name in ("start", "stop", "step"):
            yield from _pairs(getattr(wide, name), getattr(narrow, name))
