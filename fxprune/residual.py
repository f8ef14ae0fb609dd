"""Groups inside a residual branch: nothing is added to them, and another path leads around them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.common.rewritable import ATTENTION, PRODUCTS, Calls, canonical_call
from fxprune.common.torch_private import OpOverload, op_name, pytree
from fxprune.coupling import Coupling, Shape

# Calls of several tensors of the same channels that add none to another: products, and what sets them side by side.
_NO_SUMS: Calls = PRODUCTS | ATTENTION | {
    operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, torch.cat, torch.concat, torch.stack,
    "cat", "stack", "mul", "mul_", "div", "div_",
}  # fmt: skip


def internal_groups(coupling: Coupling) -> frozenset[str]:
    """Names of the groups whose channels are added to no others, and around which the network has another path.

    The two inner layers of a residual bottleneck are such, and the hidden layer of an MLP block, and head dimensions.
    A residual stream is not, since its layers are added up; a stem or a plain chain of layers is not, since whatever
    the network computes goes through it. Only tensors count as paths, not sizes read from them.
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
    """Places, among the groups of the coupling, of those whose channels a node's value carries."""
    starts = np.array([group.offset for group in coupling.groups.values()])
    found: set[int] = set()
    for shape in _shapes(node, coupling):
        for codes in shape.axes:
            if codes is not None:
                kept: NDArray[np.int64] = np.unique(codes[codes >= 0])
                found |= set((np.searchsorted(starts, kept, "right") - 1).tolist())
    return frozenset(found)


def _summed(node: fx.Node, computed: set[fx.Node], carried: dict[fx.Node, frozenset[int]]) -> set[int]:
    """Groups that two inputs of a node and its result carry, unless the call is known to add nothing."""
    operands = [carried[operand] for operand in node.all_input_nodes if operand in computed]
    if len(operands) < 2 or not _NO_SUMS.isdisjoint((node.target, _name(node), canonical_call(node.target))):
        return set()
    return {index for index in carried[node] if sum(index in each for each in operands) > 1}


def _name(node: fx.Node) -> str:
    """What a method of this name would do, if the node calls an operator of ATen."""
    target = node.target
    return op_name(target).removeprefix("aten::") if isinstance(target, OpOverload) else ""


def _bypassed(carriers: set[fx.Node], paths: nx.DiGraph, coupling: Coupling) -> bool:
    """Whether an input that the carriers depend on reaches an output that depends on them on a path without them."""
    *nodes, output = coupling.graph_module.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder" and carriers & _after([node], paths)]
    around = _after(inputs, paths.subgraph(set(paths) - carriers | set(inputs)))
    return any(node in around for node in _after(carriers, paths).intersection(output.all_input_nodes))


def _paths(coupling: Coupling) -> nx.DiGraph:
    """Nodes of the graph, with an arrow from each to the nodes of tensors that take it."""
    nodes = list(coupling.graph_module.graph.nodes)
    paths = nx.DiGraph()
    paths.add_nodes_from(nodes)
    tensors = [node for node in nodes if next(_shapes(node, coupling), None) is not None]
    paths.add_edges_from((operand, node) for node in tensors for operand in node.all_input_nodes)
    return paths


def _after(starts: Iterable[fx.Node], paths: nx.DiGraph) -> set[fx.Node]:
    """Nodes that can be reached from ``starts``, themselves included."""
    return set(itertools.chain.from_iterable(nx.bfs_layers(paths, starts)))


def _shapes(node: fx.Node, coupling: Coupling) -> Iterator[Shape]:
    facts = coupling.nodes.get(node.name)
    leaves = pytree.tree_leaves(facts.value if facts else None, is_leaf=lambda leaf: isinstance(leaf, Shape))
    return (leaf for leaf in leaves if isinstance(leaf, Shape))
