"""Group the channels of one run: those that occur in the same way in the same axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.coupling import Coupling, domains_of, prunable_weights
from fxprune.pytorch.modules import canonical_names, digest_of_tables, named_tensors

from ..channels import Forest, Ids, signatures
from ..computed_weights import CapturedGraph
from ..marks import Event, Fork
from ..state import AnalysisState
from .codes import Coding, owners
from .reasons import FrozenReasons, ParameterAxis


@dataclass(frozen=True, eq=False)
class Analysis:
    """A coupling, and the forks at which the chosen way of bundling blocked channels.

    Attributes:
        coupling: the result.
        blocked: key of a fork -> the next way to try there.
        exhausted: whether all ways were tried at some fork.
        computed_weight_users: nodes that contract a computed weight with an activation.
        two_roles: axes, by parameter and number, that are rows of one weight and columns of another.
        values: name of a node -> what it returned, tensors as (sizes, label).
    """

    coupling: Coupling
    blocked: dict[str, int]
    exhausted: bool
    computed_weight_users: frozenset[str]
    two_roles: frozenset[tuple[str, int]]
    values: Mapping[str, Any]

    @property
    def remaining_share(self) -> float:
        """Share of the weights that stays if every group keeps half of its channels."""
        return round(self.coupling.share_halved, 6)


def group_channels(
    state: AnalysisState,
    values: Mapping[str, Any],
    captured: CapturedGraph,
    example_inputs: Inputs,
    model: nn.Module,
    *,
    merge_heads: bool,
) -> Analysis:
    """Group the channels of one run, and report what is frozen and why."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    order = {name: at for at, name in enumerate(shapes)}
    axes = [
        ParameterAxis(origin.name, dim, ids)
        for origin in sorted(state.origins.found.values(), key=lambda origin: order[origin.name])
        for dim, ids in enumerate(origin.axes)
        if ids is not None
    ]
    state.channels.settle()
    columns = state.channels.marked(state.marks.columns)
    rows = state.channels.marked(state.marks.rows)
    reasons = FrozenReasons(state.channels, [*state.marks.frozen, *_roles(state, axes, columns, rows)])
    members = _members(state, axes, reasons)
    domains = _domains(state, members, reasons)
    members = [channels[~reasons.frozen(channels)] for channels in members]
    coding = Coding(state.channels, axes, members, domains, columns)
    prunable = prunable_weights(coding.groups, shapes)
    wide = {name: math.prod(shape) - prunable.get(name, 0) for name, shape in shapes.items()}
    coupling = Coupling(
        groups=coding.groups,
        frozen=reasons.report(axes, list(state.labels.carried.values()), wide),
        shapes=shapes,
        graph_module=captured.graph_module,
        functions=captured.functions,
        nodes=coding.facts(values, state.notes),
        layers={name: tuple(map(coding.shapes, calls)) for name, calls in state.layers.found.items()},
        example_inputs=example_inputs,
        network=model,
        shared=canonical_names(model),
        parameters=tuple(name for name, _ in model.named_parameters()),
        whole=merge_heads,
        tables=digest_of_tables(model, captured.graph_module.graph, state.notes.places) if state.notes.places else "",
    )
    blocked, both = _blocked(state.choices.forks, coding), columns & rows
    return Analysis(
        coupling,
        {fork.key: fork.choice + 1 for fork in blocked if fork.choice + 1 < fork.options},
        any(fork.choice + 1 == fork.options for fork in blocked),
        frozenset(state.notes.computed_weight_users),
        frozenset((axis.name, axis.dim) for axis in axes if both[axis.ids].any()),
        values,
    )


def _blocked(forks: list[Fork], coding: Coding) -> list[Fork]:
    """Return the forks whose channels cannot merge, or only in clusters of more than four."""
    mergeable = np.zeros(sum(group.width for group in coding.groups.values()) + 1, bool)
    for domain in domains_of(coding.groups):
        common = math.gcd(*(group.width for group in domain))
        usual = not domain[0].balanced or any(common % size == 0 for size in (2, 3))
        for group in domain:
            mergeable[group.offset : group.offset + group.width] = usual
    return [fork for fork in forks if not mergeable[coding.of(fork.ids)].any()]


def _roles(
    state: AnalysisState, axes: list[ParameterAxis], columns: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> list[Event]:
    """Freeze axes without a use or with both roles, and columns that read constants."""
    channel, count = state.channels.channel, state.channels.count
    used = np.zeros(count, bool)
    used[channel(np.flatnonzero(columns | rows))] = True
    events = []
    for axis in axes:
        reads, ties = columns[axis.ids], rows[axis.ids]
        if (reads & ties).any() or (reads.any() and not reads.all()):
            events.append(Event(axis.ids, "read by columns and used by rows", None))
        events.append(Event(axis.ids[~used[channel(axis.ids)]], "", None))
    # Channels that are read but that no parameter makes are constant, such as zeros from padding.
    made = np.zeros(count, bool)
    for axis in axes:
        made[channel(axis.ids[~columns[axis.ids]])] = True
    events += [Event(axis.ids[~made[channel(axis.ids)]], "", None) for axis in axes]
    return [event for event in events if len(event.ids)]


def _members(state: AnalysisState, axes: list[ParameterAxis], reasons: FrozenReasons) -> list[Ids]:
    """Return groups as vectors of two or more channels, in the order of their first occurrence."""
    # Channels that occur differently in an activation, or in another order, may not merge either.
    distinct = {ids.tobytes(): ids for ids in (*(axis.ids for axis in axes), *state.labels.vectors.values())}
    signature = signatures(state.channels, list(distinct.values()))
    ids = np.concatenate([axis.ids for axis in axes] or [np.zeros(0, np.int64)])
    channels, first = np.unique(state.channels.channel(ids[~reasons.frozen(ids)]), return_index=True)
    channels = channels[np.argsort(first)]
    _, start, which = np.unique(signature[channels], return_index=True, return_inverse=True)
    by_group = np.split(channels[np.argsort(which, kind="stable")], np.cumsum(np.bincount(which))[:-1])
    members = [by_group[index] for index in np.argsort(start)] if len(channels) else []
    for lone in [channels for channels in members if len(channels) == 1]:
        reasons.add(_alone(state, int(lone[0])))
    return [channels for channels in members if len(channels) > 1]


def _alone(state: AnalysisState, channel: int) -> Event:
    """Make the event of a lone channel, which names the bundlings that left it alone."""
    bundlings = [event for event in state.marks.bundled if (state.channels.channel(event.ids) == channel).any()]
    reported = list(dict.fromkeys(f"{event.why} at `{event.node}`" for event in bundlings))
    why = f"bundled into one channel by {' and '.join(reported[:2])}" if reported else ""
    node: fx.Node | None = bundlings[0].node if bundlings else None
    return Event(np.array([channel]), why or "no other channel has the same uses", node)


def _domains(state: AnalysisState, members: list[Ids], reasons: FrozenReasons) -> dict[int, int]:
    """Map groups to domains: groups of one average; freeze those without a common cluster size."""
    owner, forest = owners(state.channels, members), Forest()
    forest.grow(len(members))
    events = [(event, np.unique(owner[state.channels.channel(event.ids)])) for event in state.marks.balanced]
    for _, met in events:
        present = met[met >= 0]
        forest.union(present[:-1], present[1:])
    averaged = sorted({int(index) for _, met in events for index in met if index >= 0})
    domains = dict(zip(averaged, forest.find(np.array(averaged, np.int64)).tolist(), strict=True))
    together: dict[int, list[int]] = defaultdict(list)
    for index, domain in domains.items():
        together[domain].append(index)
    for event, met in events:
        present, alone = met[met >= 0], bool((met < 0).any())
        if not len(present):
            continue
        domain = together[domains[int(present[0])]]
        if alone or math.gcd(*(len(members[index]) for index in domain)) == 1:
            why = "frozen channels" if alone else "groups whose widths have no common divisor"
            for index in domain:
                reasons.add(Event(members[index], f"{event.why} together with {why}", event.node))
    return domains
