"""The result of the analysis: groups of channels that merge in all their axes at once.

A *channel* of a group is a number from 0 to ``width - 1``. Every channel of a network has one *code*,
``group.offset + channel``; -1 is the code of a position that never changes. The labels of graph nodes hold codes, so
that a plan is one boolean vector over codes.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.arguments.batches import BatchRange, graph_batches
from fxprune.arguments.inputs import Inputs
from fxprune.common.table import table
from fxprune.common.text import count, fill, listed, shortened
from fxprune.equivalence import UNCHECKED
from fxprune.frozen import Frozen, by_reason, frozen_lines
from fxprune.node_facts import Codes, NodeFacts, Shape

if TYPE_CHECKING:
    import networkx as nx

COLUMNS = 100  # of what a coupling prints


@dataclass(frozen=True, eq=False)
class Axis:
    """The positions of a group's channels on one axis of one parameter or buffer.

    Attributes:
        parameter: qualified name, as in ``model.state_dict()``.
        dim: axis of the tensor, from 0.
        positions: int64 [width, occurrences]; channel i lies at ``positions[i, k]`` for its k-th
            occurrence. Merging channel j into i maps the k-th occurrence of j onto the k-th of i.
    """

    parameter: str
    dim: int
    positions: Codes

    def __str__(self) -> str:
        occurrences = self.positions.shape[1]
        return f"{self.parameter}:{self.dim}" + (f" x{occurrences}" if occurrences > 1 else "")


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with the same uses: any two of them may merge, in all these axes at once.

    Attributes:
        name: qualified name of the first tied parameter (with ``#2``, ``#3`` if several groups start there).
        width: number of channels.
        tied: axes whose rows are pulled together in training; one row per cluster is kept.
        readers: axes whose columns are summed over a cluster.
        domain: groups of one domain (>= 0) must keep clusters of one common size, since a normalisation, a mean over
            channels or a dot product runs over all of them; -1: clusters may have any size.
        offset: code of channel 0.
    """

    name: str
    width: int
    tied: tuple[Axis, ...]
    readers: tuple[Axis, ...]
    domain: int
    offset: int

    @property
    def balanced(self) -> bool:
        """Tell whether every cluster must have the same size."""
        return self.domain >= 0


@dataclass(frozen=True, eq=False)
class Coupling:
    """The groups of channels of a network that merge together; prints as a table.

    Attributes:
        groups: name -> group, in the order of their first tied parameter.
        frozen: channels that may not merge, and the reasons.
        shapes: name -> shape of every parameter and buffer.
        graph_module: the captured graph.
        functions: name of a stored weight -> graph without inputs that computes from the model's tensors what
            ``graph_module`` reads under that name. Rows are tied in the stored weight, columns summed in the computed
            one.
        nodes: name of an fx node -> facts about it.
        layers: name of a layer with shape attributes -> shape of its input, for each call.
        example_inputs: the analysed inputs: integers as they were, other tensors on the meta device.
        network: the analysed model itself, not a copy.
        shared: every name of a parameter or buffer -> the first name of the same tensor.
        parameters: first names of all parameters.
        whole: whether the analysis preferred to merge complete heads and groups.
        outputs: places of the outputs that count; the graph returns no others. None: all.
        tables: digest of the stored tables of integers, if one of them says where channels go; it holds for these only.
        given: the example itself, as long as the program runs.
        configuration: digest of what the network holds besides tensors, in this process.
    """

    groups: Mapping[str, Group]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    graph_module: fx.GraphModule = field(repr=False)
    nodes: Mapping[str, NodeFacts] = field(repr=False)
    layers: Mapping[str, tuple[Shape, ...]] = field(repr=False)
    example_inputs: Inputs = field(repr=False)
    network: torch.nn.Module = field(repr=False)
    shared: Mapping[str, str] = field(repr=False, default_factory=dict)
    parameters: tuple[str, ...] = field(repr=False, default=())
    whole: bool = False
    functions: Mapping[str, fx.GraphModule] = field(repr=False, default_factory=dict)
    outputs: tuple[str, ...] | None = None
    tables: str = ""
    given: Inputs | None = field(repr=False, default=None)
    configuration: str = ""

    def __deepcopy__(self, _: Any) -> Coupling:
        """A coupling does not change, so a copy of what holds it shares it."""
        return self

    def model(self) -> torch.nn.Module:
        """Return the analysed model."""
        return self.network

    @functools.cached_property
    def batch(self) -> BatchRange:
        """The batch sizes that the graph takes: its guards may bind it to those of the example."""
        return graph_batches(self.graph_module, self.example_inputs)

    @functools.cached_property
    def channels(self) -> int:
        """The number of codes."""
        return sum(group.width for group in self.groups.values())

    @functools.cached_property
    def domains(self) -> tuple[tuple[Group, ...], ...]:
        """The groups by domain; a group without a domain is alone. In the order of groups."""
        return domains_of(self.groups)

    @functools.cached_property
    def share_prunable(self) -> float:
        """Share of the weights that are read whose rows or columns belong to a group, 0 to 1."""
        total = sum(math.prod(self.shapes[name]) for name in self._read)
        return sum(self.prunable_weights.get(name, 0) for name in self._read) / total if total else 0.0

    @functools.cached_property
    def _read(self) -> list[str]:
        """List the parameters that the graph reads; a narrow network has no others."""
        graphs = (self.graph_module, *self.functions.values())
        read = {name for graph in graphs for name, _ in graph.named_parameters(remove_duplicate=False)}
        first = {self.shared.get(name, name) for name in read}
        return [name for name in self.parameters if name in first]

    @functools.cached_property
    def prunable_weights(self) -> dict[str, int]:
        """Map each tensor, by its first name, to its number of weights in rows or columns."""
        return prunable_weights(self.groups, self.shapes, self.shared)

    @functools.cached_property
    def share_halved(self) -> float:
        """Share of the weights that stay if every group keeps half of its channels.

        Of weights from which another one is computed and stored, none stay.
        """
        total = sum(math.prod(self.shapes[name]) for name in self.parameters)
        own = {self.shared.get(name, name) for name, _ in self.graph_module.named_parameters(remove_duplicate=False)}
        left = sum(
            math.prod(self.shapes[name]) * math.prod(1.0 - share / 2 for share in self._covered.get(name, ()))
            for name in self.parameters
            if name in own
        )
        return left / total if total else 1.0

    @functools.cached_property
    def _covered(self) -> dict[str, list[float]]:
        return _covered(self.groups, self.shapes, self.shared)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the groups, equal if every group has the same channels at the same positions."""
        found = hashlib.sha256()
        for group in self.groups.values():
            found.update(f"{group.name} {group.width} {group.domain >= 0}".encode())
            for axis in (*group.tied, *group.readers):
                found.update(f"{axis.parameter}:{axis.dim}".encode())
                found.update(np.ascontiguousarray(axis.positions, dtype="<i8").tobytes())
        return found.hexdigest()

    def graph(self) -> nx.MultiGraph:
        """Build the graph of coupled layers: edges join makers of a group's channels to their users."""
        import networkx as nx  # half as slow to import as all of fxprune

        graph = nx.MultiGraph()
        for group in self.groups.values():
            producers = _owners(group.tied)
            readers = _owners(group.readers)
            for owner in (*producers, *readers):
                graph.add_node(owner)
            first = producers[0] if producers else readers[0]
            for role, owners in (("tied", producers[1:]), ("reader", readers)):
                for owner in owners:
                    graph.add_edge(first, owner, group=group.name, role=role, width=group.width)
        return graph

    def __str__(self) -> str:
        balance = balance_in_words(self.groups.values())
        header = ("group", "width", "balanced", "tied", "readers")
        rows = [
            (shortened(name, 36), group.width, balance[name], len(group.tied), _readers(group))
            for name, group in self.groups.items()
        ]
        sections = [table(header, rows, right="width tied")] if rows else []
        if self.frozen:
            sections.append("\n".join(["Frozen weights, and why:", *frozen_lines(by_reason(self.frozen), COLUMNS)]))
        sections.append(f"{count(len(self.groups), 'group')}; {self.share_prunable:.1%} of the weights can be pruned")
        if self.batch.why:
            sections[-1] += "\n" + fill(f"batch: {self.batch}, since {self.batch.why}", COLUMNS)
        unchecked = self.graph_module.meta.get(UNCHECKED, "")
        if unchecked:
            sections[-1] += "\n" + fill(f"not compared with the model: {unchecked}", COLUMNS)
        return "\n\n".join(sections)


class _Grouped(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def domain(self) -> int: ...


def balance_in_words(groups: Iterable[_Grouped]) -> dict[str, str]:
    """Say of each group whether it is balanced, and number the domains of several groups."""
    groups = list(groups)
    sizes = Counter(group.domain for group in groups if group.domain >= 0)
    numbers = {domain: i for i, domain in enumerate((domain for domain, size in sizes.items() if size > 1), 1)}

    def words(domain: int) -> str:
        return "no" if domain < 0 else f"yes ({numbers[domain]})" if domain in numbers else "yes"

    return {group.name: words(group.domain) for group in groups}


def domains_of(groups: Mapping[str, Group]) -> tuple[tuple[Group, ...], ...]:
    """Put groups under one average together; a group without a domain is alone."""
    members: dict[int | str, list[Group]] = {}
    for name, group in groups.items():
        members.setdefault(group.domain if group.balanced else name, []).append(group)
    return tuple(map(tuple, members.values()))


def prunable_weights(
    groups: Mapping[str, Group], shapes: Mapping[str, tuple[int, ...]], shared: Mapping[str, str] = MappingProxyType({})
) -> dict[str, int]:
    """Map each tensor, by its name in ``shared``, to its number of weights in rows or columns."""
    return {
        name: round((1.0 - math.prod(1.0 - share for share in on_axes)) * math.prod(shapes[name]))
        for name, on_axes in _covered(groups, shapes, shared).items()
    }


def _covered(
    groups: Mapping[str, Group], shapes: Mapping[str, tuple[int, ...]], shared: Mapping[str, str]
) -> dict[str, list[float]]:
    """Map each tensor name to the share of positions that belong to a group, for each axis."""
    covered: dict[str, list[NDArray[np.bool_] | None]] = {}
    for group in groups.values():
        for axis in (*group.tied, *group.readers):
            shape = shapes[axis.parameter]
            masks = covered.setdefault(shared.get(axis.parameter, axis.parameter), [None] * len(shape))
            mask = masks[axis.dim]
            if mask is None:
                mask = masks[axis.dim] = np.zeros(shape[axis.dim], bool)
            mask[axis.positions.ravel()] = True
    return {name: [0.0 if mask is None else float(mask.mean()) for mask in masks] for name, masks in covered.items()}


def _owners(axes: tuple[Axis, ...]) -> list[str]:
    return list(dict.fromkeys(axis.parameter.rpartition(".")[0] or axis.parameter for axis in axes))


def _readers(group: Group) -> str:
    """Name the first axis that reads the group, and count the others."""
    first, _, more = listed(map(str, group.readers), 1).partition(" and ")
    return shortened(first, 26) + (f" and {more}" if more else "") if first else "-"
