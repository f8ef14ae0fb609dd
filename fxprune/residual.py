"""Find the groups inside residual branches: nothing is added to them, a path bypasses them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.coupling import Coupling
from fxprune.node_facts import Shape
from fxprune.pytorch.call_targets import ATTENTION, PRODUCTS, Calls, call_kind
from fxprune.pytorch.torch_private import OpOverload, op_name, pytree

# Calls on several tensors with the same channels that do not add them: products, and concatenations.
_NO_SUMS: Calls = PRODUCTS | ATTENTION | {
    operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, torch.cat, torch.concat, torch.stack,
    "cat", "stack", "mul", "mul_", "div", "div_",
}  # fmt: skip
_Paths = Mapping[fx.Node, Sequence[fx.Node]]


def internal_groups(coupling: Coupling) -> frozenset[str]:
    """Find the groups whose channels are not added to others, and which a path bypasses.

    Examples are the two inner layers of a residual bottleneck, the hidden layer of an MLP block, and head dimensions. A
    residual stream is none, since its layers are added; a stem or a plain chain of layers is none, since all that the
    network computes goes through it. Only tensors count as paths, not sizes read from them.
    """
    paths = _paths(coupling)
    nodes = list(paths)
    computed = _after([node for node in nodes if node.op == "placeholder"], paths)
    carried = {node: _groups_on(node, coupling) for node in nodes}
    summed: set[int] = set()
    for node in nodes:
        summed |= _summed(node, computed, carried)
    names = list(coupling.groups)
    return frozenset(
        name
        for index, name in enumerate(names)
        if index not in summed and _bypassed({node for node in nodes if index in carried[node]}, paths, coupling)
    )


def _groups_on(node: fx.Node, coupling: Coupling) -> frozenset[int]:
    """Return the indices of the groups whose channels a node's value carries."""
    starts = np.array([group.offset for group in coupling.groups.values()])
    found: set[int] = set()
    for shape in _shapes(node, coupling):
        for codes in shape.axes:
            if codes is not None:
                kept: NDArray[np.int64] = np.unique(codes[codes >= 0])
                found |= set((np.searchsorted(starts, kept, "right") - 1).tolist())
    return frozenset(found)


def _summed(node: fx.Node, computed: set[fx.Node], carried: dict[fx.Node, frozenset[int]]) -> set[int]:
    """Return the groups on two inputs and the result of a node, unless the call adds nothing."""
    operands = [carried[operand] for operand in node.all_input_nodes if operand in computed]
    if len(operands) < 2 or not _NO_SUMS.isdisjoint((node.target, _name(node), call_kind(node))):
        return set()
    return {index for index in carried[node] if sum(index in each for each in operands) > 1}


def _name(node: fx.Node) -> str:
    """Return the name of a node's ATen operator, which is that of a method, or an empty text."""
    target = node.target
    return op_name(target).removeprefix("aten::") if isinstance(target, OpOverload) else ""


def _bypassed(carriers: set[fx.Node], paths: _Paths, coupling: Coupling) -> bool:
    """Tell whether a path from an input of the carriers to an output of theirs avoids them."""
    *nodes, output = coupling.graph_module.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder" and carriers & _after([node], paths)]
    around = _after(inputs, paths, but=carriers)
    return any(node in around for node in _after(carriers, paths).intersection(output.all_input_nodes))


def _paths(coupling: Coupling) -> _Paths:
    """Return the nodes of tensors that use each node."""
    tensors = {node for node in coupling.graph_module.graph.nodes if next(_shapes(node, coupling), None) is not None}
    return {node: [user for user in node.users if user in tensors] for node in coupling.graph_module.graph.nodes}


def _after(starts: Iterable[fx.Node], paths: _Paths, but: Set[fx.Node] = frozenset()) -> set[fx.Node]:
    """Return the nodes that are reachable from ``starts``, including these, around some others."""
    found, ahead = set[fx.Node](), [*starts]
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += [user for user in paths[node] if user not in but]
    return found


def _shapes(node: fx.Node, coupling: Coupling) -> Iterator[Shape]:
    facts = coupling.nodes.get(node.name)
    leaves = pytree.tree_leaves(facts.value if facts else None, is_leaf=lambda leaf: isinstance(leaf, Shape))
    return (leaf for leaf in leaves if isinstance(leaf, Shape))
