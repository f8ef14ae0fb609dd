"""Nodes whose numbers hang on sizes of the inputs: at another size they are others."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.constants import value_of
from fxprune.pytorch.rewritable import canonical_call, positional, reads_sizes

from .labels import Labels, tensors_in


class InputLengths:
    """Which nodes hang on lengths of axes without channels, or on numbers that the network is given."""

    def __init__(self) -> None:
        self._hang: dict[fx.Node, bool | tuple[bool, ...]] = {}

    def note(self, node: fx.Node, value: Any, env: Mapping[fx.Node, Any], labels: Labels) -> None:
        """Note a node that ran: what it returned, and the values of those before it."""
        first = node.args[0] if node.args else None
        given = env.get(first) if isinstance(first, fx.Node) else None
        if node.op == "placeholder":
            self._hang[node] = not isinstance(value, torch.Tensor)
        elif isinstance(given, torch.Tensor) and not tensors_in(value):
            assert isinstance(first, fx.Node)
            if first.op == "get_attr" or node.target is getattr and node.args[1] != "shape":
                self._hang[node] = False
            elif value_of(given) is not None:
                self._hang[node] = self._any(first)
            else:
                self._hang[node] = _read(node, tuple(ids is None for ids in labels.of(given).axes))
        else:
            found = self._hang.get(first) if isinstance(first, fx.Node) else None
            at = node.args[1] if node.target is operator.getitem else None
            whole = isinstance(found, tuple) and isinstance(at, (int, slice)) and len(node.all_input_nodes) == 1
            self._hang[node] = found[at] if whole else any(map(self._any, node.all_input_nodes))  # type: ignore[index]

    def reach(self, node: fx.Node) -> bool:
        """Tell whether the index of a call hangs on them."""
        args, _ = positional(canonical_call(node.target) or node.target, node.args, node.kwargs)
        picks = node.target in (operator.getitem, operator.setitem)
        return any(map(self._any, _tables(args[1:2] if picks else args[1:])))

    def _any(self, node: fx.Node) -> bool:
        found = self._hang.get(node, False)
        return any(found) if isinstance(found, tuple) else found


def _read(node: fx.Node, free: tuple[bool, ...]) -> bool | tuple[bool, ...]:
    """Tell it of what a call reads of a tensor, of whose axes these have no channels."""
    if not reads_sizes(node) or node.target in ("numel", "nelement", torch.numel):
        return any(free)
    if node.target in ("dim", "__len__"):
        return node.target == "__len__" and free[0]
    dim = node.kwargs.get("dim", node.args[1] if node.target == "size" and len(node.args) > 1 else None)
    return free if dim is None else not isinstance(dim, int) or free[dim]


def _tables(index: Any) -> Iterator[fx.Node]:
    """Yield the nodes in an index; bounds of slices are no index."""
    if isinstance(index, fx.Node):
        yield index
    elif isinstance(index, (tuple, list)):
        for each in index:
            yield from _tables(each)
