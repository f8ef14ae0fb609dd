"""Read the calls of a captured graph, and what its views ask for."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import FLATTENS, LIKE, VIEWS, call_kind, is_own_function, positional, runs_own_code
from fxprune.pytorch.torch_private import pytree, replaces_code

from .calls import IN_PLACE, REGULARISERS, REPEATS, is_pointwise, name_of

_KINDS = frozenset(map(name_of, VIEWS | FLATTENS | LIKE - {"expand_as"}))


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
        """List the tensors that a call reads, its input first, again where it reads one again."""
        arguments = positional(node.target, node.args, node.kwargs)
        given = (each for each in pytree.tree_leaves(arguments) if isinstance(each, fx.Node))
        return [each for each in given if isinstance(self.coupling.nodes[each.name].value, Shape)]

    def call(self, node: fx.Node) -> fx.Node:
        """Return the call of which a node takes one of several results; else the node."""
        source = node.args[0] if node.target in (operator.getitem, getattr) else None
        if isinstance(source, fx.Node) and isinstance(self.coupling.nodes[source.name].value, (tuple, list)):
            return source
        return node

    def module(self, node: fx.Node) -> nn.Module:
        """Return the layer that a node calls."""
        return self.coupling.graph_module.get_submodule(str(node.target))

    def name(self, node: fx.Node) -> str:
        """Name what a node calls; "" for code that is not PyTorch's, whatever its name."""
        if node.op == "call_module":
            layer = self.module(node)
            name = name_of(type(layer))
            is_known = name in REGULARISERS and not replaces_code(layer)
            return name if is_known or not runs_own_code(node) else ""
        return "" if is_own_function(node) else name_of(node.target)

    def integers(self, dims: Any) -> list[int]:
        """List the numbers of axes in an argument, which the graph may compute."""
        known = pytree.tree_map_only(fx.Node, lambda node: self.coupling.nodes[node.name].value, dims)
        leaves = pytree.tree_leaves(known)
        return [each for each in leaves if isinstance(each, int) and not isinstance(each, bool)]

    def has_channels_alone(self, node: fx.Node, dim: int) -> bool:
        """Tell whether an axis holds nothing but channels, as one of repeated positions does not."""
        shape = self.shape(node)
        if shape.axes[dim] is None or dim in shape.varying or self.name(node) not in REPEATS:
            return shape.axes[dim] is not None and dim not in shape.varying
        given = self.shape(self.tensors(node)[0])
        at = dim - len(shape.sizes) + len(given.sizes)
        return at < 0 or given.axes[at] is not None

    def is_linear(self, node: fx.Node) -> bool:
        """Tell whether a call multiplies rows by a weight."""
        return isinstance(self.module(node), nn.Linear) if node.op == "call_module" else self.name(node) == "linear"

    def keeps_places(self, node: fx.Node) -> bool:
        """Tell whether a call leaves each number at its place, whatever it becomes."""
        name = self.name(node)
        return name in IN_PLACE or (node.op != "call_module" and is_pointwise(name))


class ViewReader(CallReader):
    """The views of a captured graph: what each asks for."""

    def asked(self, node: fx.Node, rank: int) -> dict[int, Any]:
        """Return the sizes that a view states, by axis."""
        if self.view_kind(node) == "unflatten":
            return self._unflattened(node)
        if self.view_kind(node) not in ("view", "reshape"):
            return {}
        sizes: Any = positional(node.target, node.args, node.kwargs)[0][1:]
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        return dict(enumerate(sizes)) if len(sizes) == rank else {}

    def _unflattened(self, node: fx.Node) -> dict[int, Any]:
        """Return the sizes that a call to unflatten states, by axis."""
        layer: Any = self.module(node) if node.op == "call_module" else None
        given: Any = () if layer is not None else positional(node.target, node.args, node.kwargs)[0][1:3]
        dim, sizes = (layer.dim, layer.unflattened_size) if layer is not None else (*given, (), ())[:2]
        dims = self.integers(dim)
        rank = len(self.shape(self.tensors(node)[0]).sizes)
        return dict(enumerate(sizes, dims[0] % rank)) if dims and isinstance(sizes, (tuple, list)) else {}

    def joined_by(self, node: fx.Node, rank: int) -> tuple[int, ...]:
        """List the axes that a call to flatten joins."""
        if self.view_kind(node) == "ravel":
            return tuple(range(rank))
        if node.op == "call_module":
            layer: Any = self.module(node)
            start, end = layer.start_dim, layer.end_dim
        else:
            given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:])) | dict(node.kwargs)
            start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        first, last = self.integers((start, end))
        return tuple(range(first % rank, last % rank + 1))

    def view_kind(self, node: fx.Node) -> str:
        """Name a call that joins or parts axes, and keeps the row of numbers; "" for any other."""
        if node.op == "call_module":
            return self.name(node) if isinstance(self.module(node), (nn.Flatten, nn.Unflatten)) else ""
        if node.op not in ("call_function", "call_method") or any(isinstance(each, torch.dtype) for each in node.args):
            return ""
        # An overload counts by what it does as well as by its name.
        if is_own_function(node):
            return ""
        return next((name for name in map(name_of, (call_kind(node), node.target)) if name in _KINDS), "")
