"""From one walk's ids and marks to groups: channels that occur in the same way in the same axes form a group."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.utils import _pytree as pytree

from fxprune.common.inputs import Inputs
from fxprune.common.modules import canonical_names, named_tensors
from fxprune.coupling import Axis, Codes, Coupling, Group, NodeFacts, Shape, Work

from .channels import Ids, signatures
from .computed_weights import Folded
from .frozen import Blame, ParameterAxis
from .state import Event, Fork, Label, Walk


@dataclass(frozen=True, eq=False)
class Conclusion:
    """A coupling, and the places where channels got stuck in the way they were bundled.

    Attributes:
        coupling: what was found.
        stuck: place -> the next way to try there.
        jammed: whether all ways were tried at some place.
        weighers: nodes that contract a computed weight with an activation.
        values: name of a node -> what it returned, tensors as (sizes, label).
    """

    coupling: Coupling
    stuck: dict[str, int]
    jammed: bool
    weighers: frozenset[str]
    values: Mapping[str, Any]


def conclude(
    walk: Walk,
    values: Mapping[str, Any],
    folded: Folded,
    example_inputs: Inputs,
    model: torch.nn.Module,
    *,
    whole: bool,
) -> Conclusion:
    """Group the channels of a walk and state what is frozen and why."""
    walk.settle()
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    order = {name: place for place, name in enumerate(shapes)}
    axes = [
        ParameterAxis(source.name, dim, ids)
        for source in sorted(walk.sources.values(), key=lambda source: order[source.name])
        for dim, ids in enumerate(source.axes)
        if ids is not None
    ]
    blame = Blame(walk, [*walk.freezes, *_roles(walk, axes)])
    grouped = _group(walk, axes, blame)
    domains = _domains(walk, grouped, blame)
    grouped = [channels[~blame.frozen(channels)] for channels in grouped]
    groups, code = _number(walk, axes, grouped, domains)
    coupling = Coupling(
        groups=groups,
        frozen=(),
        shapes=shapes,
        graph_module=folded.graph_module,
        functions=folded.functions,
        nodes=_facts(walk, values, code),
        layers={name: tuple(_shapes(walk, call, code) for call in calls) for name, calls in walk.layers.items()},
        example_inputs=example_inputs,
        model=weakref.ref(model),
        shared=canonical_names(model),
        parameters=tuple(name for name, _ in model.named_parameters()),
        whole=whole,
    )
    stuck = _stuck(walk, groups, code)
    return Conclusion(
        dataclasses.replace(coupling, frozen=blame.report(axes, coupling)),
        {fork.key: fork.choice + 1 for fork in stuck if fork.choice + 1 < fork.options},
        any(fork.choice + 1 == fork.options for fork in stuck),
        frozenset(walk.weighers),
        values,
    )


def _facts(walk: Walk, values: Mapping[str, Any], code: NDArray[np.int64]) -> dict[str, NodeFacts]:
    def codes(ids: Ids) -> Codes:
        return code[walk.channels.channel(ids)]

    return {
        name: NodeFacts(
            _shapes(walk, value, code),
            tuple((codes(ids), power) for ids, power in walk.products.get(name, ())),
            tuple(Work(macs, tuple(map(codes, on))) for macs, on in walk.works.get(name, ())),
        )
        for name, value in values.items()
    }


def _stuck(walk: Walk, groups: Mapping[str, Group], code: NDArray[np.int64]) -> list[Fork]:
    """Forks none of whose channels can merge, or only in clusters far larger than anyone asks for."""
    mergeable = np.zeros(sum(group.width for group in groups.values()) + 1, bool)
    widths: dict[int, list[int]] = defaultdict(list)
    for group in groups.values():
        widths[group.domain].append(group.width)
    for group in groups.values():
        common = math.gcd(*widths[group.domain])
        usual = not group.balanced or any(common % size == 0 for size in (2, 3, 4))
        mergeable[group.offset : group.offset + group.width] = usual
    return [fork for fork in walk.forks if not mergeable[code[walk.channels.channel(fork.ids)]].any()]


def _roles(walk: Walk, axes: list[ParameterAxis]) -> list[Event]:
    """Freeze axes without a use, those that are read by columns and used by rows, and columns that read constants."""
    read, tied = walk.channels.marked(walk.read), walk.channels.marked(walk.tied)
    used = np.zeros(walk.channels.count, bool)
    every = np.arange(walk.channels.count)
    used[walk.channels.channel(every[read | tied])] = True
    events = []
    for axis in axes:
        columns, rows = read[axis.ids], tied[axis.ids]
        if (columns & rows).any() or (columns.any() and not columns.all()):
            events.append(Event(axis.ids, "read by columns and used by rows", None))
        unused = axis.ids[~used[walk.channels.channel(axis.ids)]]
        events.append(Event(unused, "", None))
    # What is read and made by no parameter is constant, such as zeros from padding: nothing to train or merge.
    made = np.zeros(walk.channels.count, bool)
    for axis in axes:
        made[walk.channels.channel(axis.ids[~read[axis.ids]])] = True
    for axis in axes:
        events.append(Event(axis.ids[~made[walk.channels.channel(axis.ids)]], "", None))
    return [event for event in events if len(event.ids)]


def _group(walk: Walk, axes: list[ParameterAxis], blame: Blame) -> list[Ids]:
    """Groups as vectors of channels, each at least two, in the order of their first occurrence."""
    vectors = [axis.ids for axis in axes]
    # Channels that part in an activation, or occur in it in another order, may not merge either.
    distinct = {ids.tobytes(): ids for ids in (*vectors, *walk.vectors.values())}
    vectors = list(distinct.values())
    signature = signatures(walk.channels, vectors)
    members: dict[bytes, list[int]] = defaultdict(list)
    known: set[int] = set()
    for axis in axes:
        for channel in walk.channels.channel(axis.ids[~blame.frozen(axis.ids)]):
            if int(channel) not in known:
                known.add(int(channel))
                members[signature[int(channel)]].append(int(channel))
    for lone in [channels for channels in members.values() if len(channels) == 1]:
        blame.add(Event(np.array(lone), _why_alone(walk, lone[0]), _bundling(walk, lone[0])))
    return [np.array(channels) for channels in members.values() if len(channels) > 1]


def _bundling(walk: Walk, channel: int) -> fx.Node | None:
    return next((e.node for e in walk.bundles if (walk.channels.channel(e.ids) == channel).any()), None)


def _why_alone(walk: Walk, channel: int) -> str:
    """Name the bundlings that left one channel with its uses."""
    events = [event for event in walk.bundles if (walk.channels.channel(event.ids) == channel).any()]
    told = dict.fromkeys(f"{event.why} at `{event.node}`" for event in events)
    if not told:
        return "no other channel has the same uses"
    return "bundled into one channel by " + " and ".join(list(told)[:2])


def _domains(walk: Walk, groups: list[Ids], blame: Blame) -> dict[int, int]:
    """Group -> domain: groups that an average runs over together; those without a common cluster size freeze."""
    owner: NDArray[np.int64] = np.full(walk.channels.count + 1, -1)
    for index, channels in enumerate(groups):
        owner[channels] = index
    events = [(event, np.unique(owner[walk.channels.channel(event.ids)])) for event in walk.balances]
    domain = {index: index for _, met in events for index in map(int, met) if index >= 0}

    def root(index: int) -> int:
        while domain[index] != index:
            index = domain[index]
        return index

    for _, met in events:
        present = [int(index) for index in met if index >= 0]
        for index in present[1:]:
            domain[root(index)] = root(present[0])
    members: dict[int, list[int]] = defaultdict(list)
    for index in domain:
        members[root(index)].append(index)
    for event, met in events:
        present = [int(index) for index in met if index >= 0]
        if not present:
            continue
        domain_of = root(present[0])
        together = members[domain_of]
        alone = met[0] < 0
        if alone or math.gcd(*(len(groups[index]) for index in together)) == 1:
            why = "frozen channels" if alone else "groups whose widths have no common divisor"
            for index in together:
                blame.add(Event(groups[index], f"{event.why} together with {why}", event.node))
    return {index: root(index) for index in domain}


def _number(
    walk: Walk, axes: list[ParameterAxis], grouped: list[Ids], domains: dict[int, int]
) -> tuple[dict[str, Group], NDArray[np.int64]]:
    """Name groups, give their channels codes, and find their positions on every axis."""
    read = walk.channels.marked(walk.read)
    owner: NDArray[np.int64] = np.full(walk.channels.count + 1, -1)
    for index, channels in enumerate(grouped):
        owner[channels] = index
    uses: dict[int, list[tuple[ParameterAxis, Ids, Ids, bool]]] = defaultdict(list)
    for axis in axes:
        channel = walk.channels.channel(axis.ids)
        on = owner[channel]
        for index in np.unique(on[on >= 0]):
            positions = np.flatnonzero(on == index)
            uses[int(index)].append((axis, positions, channel[positions], bool(read[axis.ids[positions[0]]])))
    place = {id(axis): i for i, axis in enumerate(axes)}
    first = {index: next(use for use in found if not use[3]) for index, found in uses.items()}
    ordered = sorted(uses, key=lambda index: (place[id(first[index][0])], first[index][1][0]))
    code: NDArray[np.int64] = np.full(walk.channels.count + 1, -1)
    groups: dict[str, Group] = {}
    offset = 0
    for index in ordered:
        axis, _, channels, _ = first[index]
        _, start = np.unique(channels, return_index=True)
        members = channels[np.sort(start)]
        code[members] = offset + np.arange(len(members))
        placed = [
            (Axis(on.name, on.dim, _positions(at, code[channel])), columns) for on, at, channel, columns in uses[index]
        ]
        name = _free_name(axis.name, groups)
        groups[name] = Group(
            name,
            len(members),
            tuple(each for each, columns in placed if not columns),
            tuple(each for each, columns in placed if columns),
            domains.get(index, -1),
            offset,
        )
        offset += len(members)
    return groups, code


def _positions(at: Ids, codes: Ids) -> Ids:
    """Positions [n * occurrences] and their codes -> positions [n, occurrences], channels in the order of codes."""
    order = np.argsort(codes, kind="stable")
    return at[order].reshape(len(np.unique(codes)), -1)


def _free_name(name: str, taken: Mapping[str, Group]) -> str:
    if name not in taken:
        return name
    return next(other for n in range(2, len(taken) + 2) if (other := f"{name}#{n}") not in taken)


def _shapes(walk: Walk, value: Any, code: NDArray[np.int64]) -> Any:
    """Replace (sizes, label) by a Shape of codes."""

    def shape(pair: tuple[torch.Size, Label]) -> Shape:
        sizes, label = pair
        return Shape(
            tuple(sizes), tuple(None if ids is None else code[walk.channels.channel(ids)] for ids in label.axes)
        )

    return pytree.tree_map(lambda leaf: shape(leaf) if _is_pair(leaf) else leaf, value, is_leaf=_is_pair)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Label)
