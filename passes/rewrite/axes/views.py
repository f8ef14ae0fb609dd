"""Find the axes that a view joins into one, or parts."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape
from fxprune.pytorch.torch_private import pytree
from fxprune.pytorch.view_factors import ViewFactor, ones_beside, view_factors

from .calls import IN_PLACE, VIEWS, Part, Source, is_pointwise, name_of


class CallReader:
    """The calls of a captured graph: what they read and return, by name."""

    def __init__(self, coupling: Coupling) -> None:
        """Read the shapes of a coupling."""
        self.coupling = coupling

    def shape(self, node: fx.Node) -> Shape:
        """Return the wide shape of a tensor."""
        shape = self.coupling.nodes[node.name].value
        assert isinstance(shape, Shape)
        return shape

    def tensors(self, node: fx.Node) -> list[fx.Node]:
        """List the tensors that a call reads, again where it reads one again."""
        given = (each for each in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(each, fx.Node))
        return [each for each in given if isinstance(self.coupling.nodes[each.name].value, Shape)]

    def module(self, node: fx.Node) -> nn.Module:
        """Return the layer that a node calls."""
        return self.coupling.graph_module.get_submodule(str(node.target))

    def name(self, node: fx.Node) -> str:
        """Name what a node calls."""
        return name_of(type(self.module(node)) if node.op == "call_module" else node.target)

    def integers(self, dims: Any) -> list[int]:
        """List the numbers of axes in an argument, which the graph may compute."""
        known = pytree.tree_map_only(fx.Node, lambda node: self.coupling.nodes[node.name].value, dims)
        leaves = pytree.tree_leaves(known)
        return [each for each in leaves if isinstance(each, int) and not isinstance(each, bool)]

    def keeps_places(self, node: fx.Node) -> bool:
        """Tell whether a call leaves each number at its place, whatever it becomes."""
        name = self.name(node)
        return name in IN_PLACE or (node.op != "call_module" and is_pointwise(name))


class ViewSources(CallReader):
    """What each view of a captured graph puts into an axis of its result."""

    def parted(self, node: fx.Node, dim: int) -> Sequence[tuple[fx.Node, int]]:
        """List the axes that a view parts into one and others."""
        given = self.tensors(node)[0]
        return [(given, d) for d in self._run_of(node, given, dim)[0]]

    def has_stated(self, node: fx.Node, dim: int) -> bool:
        """Tell whether a view states a length: as a number, or as that of channels alone."""
        size = self.asked(node, len(self.shape(node).sizes)).get(dim)
        at = size.args[1] if isinstance(size, fx.Node) and len(size.args) == 2 else None
        read = size.args[0] if isinstance(size, fx.Node) and isinstance(at, int) else None
        if isinstance(size, fx.Node) and size.target is operator.getitem and isinstance(read, fx.Node):
            read = read.args[0] if read.target in ("size", getattr) else None
        if not isinstance(read, fx.Node) or not isinstance(at, int) or not isinstance(size, fx.Node):
            return isinstance(size, int) and size != -1
        shape = self.coupling.nodes[read.name].value
        is_axis = isinstance(shape, Shape) and -len(shape.sizes) <= at < len(shape.sizes)
        return is_axis and shape.axes[at] is not None and at % len(shape.sizes) not in shape.varying

    def viewed(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        """List what a view puts into an axis; [] if that is not known."""
        left, right = self._run_of(node, given, dim)
        if len(right) < 2 or not left:
            return [[(given, d) for d in left]] if left else []
        # A part of the channels at one end, of which the view states the rest: what is left joins the positions.
        stated = math.prod(self.shape(node).sizes[d] for d in right if d != dim)
        if dim in (right[0], right[-1]) and all(self.has_stated(node, d) for d in right if d != dim):
            at = left[-1] if dim == right[0] else left[0]
            size, rest = divmod(self._channels(given, at), stated)
            positions = [(given, d) for d in left if d != at]
            channels = [Part(node, dim, "channels", size)]
            if size > 1 and not rest:
                return [[*positions, *channels] if dim == right[0] else [*channels, *positions]]
        return [[Part(node, dim, "both")]]

    def _channels(self, node: fx.Node, dim: int) -> int:
        """Count the channels of an axis that has these alone; else 0."""
        shape = self.shape(node)
        return 0 if shape.axes[dim] is None or dim in shape.varying else shape.sizes[dim]

    def _run_of(self, node: fx.Node, given: fx.Node, dim: int) -> ViewFactor:
        """Return what a view makes an axis of; nothing where a length of 1 may belong there."""
        before, after = self.shape(given).sizes, self.shape(node).sizes
        if self.name(node) in ("flatten", "ravel"):
            joined = self._flattened(node, len(before))
            return (joined if dim == joined[0] else (dim + (dim > joined[0]) * (len(joined) - 1),)), (dim,)
        runs = view_factors(before, after)
        at = next(at for at, run in enumerate(runs) if dim in run[1])
        left, right = runs[at]
        asked, ones = self.asked(node, len(after)), ones_beside(before, after, runs)[at]
        right = tuple(d for d in right if d == dim or asked.get(d) != 1)
        return tuple(sorted({*left, *ones})), right

    def asked(self, node: fx.Node, rank: int) -> dict[int, Any]:
        """Return the sizes that a view states, by axis."""
        if self.name(node) == "unflatten":
            return self._unflattened(node)
        sizes: Any = node.args[1:] if self.name(node) in ("view", "reshape") and node.op != "call_module" else ()
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        return dict(enumerate(sizes)) if len(sizes) == rank else {}

    def _unflattened(self, node: fx.Node) -> dict[int, Any]:
        """Return the sizes that a call to unflatten states, by axis."""
        layer: Any = self.module(node) if node.op == "call_module" else None
        dim, sizes = (layer.dim, layer.unflattened_size) if layer is not None else (*node.args[1:3], (), ())[:2]
        dims = self.integers(dim)
        rank = len(self.shape(self.tensors(node)[0]).sizes)
        return dict(enumerate(sizes, dims[0] % rank)) if dims and isinstance(sizes, (tuple, list)) else {}

    def _flattened(self, node: fx.Node, rank: int) -> tuple[int, ...]:
        """List the axes that a call to flatten joins."""
        if node.op == "call_module":
            layer: Any = self.module(node)
            start, end = layer.start_dim, layer.end_dim
        else:
            given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:])) | dict(node.kwargs)
            start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        first, last = self.integers((start, end))
        return tuple(range(first % rank, last % rank + 1))

    def is_view(self, node: fx.Node) -> bool:
        """Tell whether a call joins or parts axes."""
        return self.name(node) in (("flatten", "unflatten") if node.op == "call_module" else VIEWS)
