"""Measure how much the analysis leaves too wide: merge channels that it separates, by trial.

The pairs come from the ids alone, whatever froze; the small search by brute force does not use ids either.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from benchmarks.merge_trial import (
    READER,
    TIED,
    Pair,
    Place,
    Trial,
    can_merge,
    found_to_merge,
    pair_of,
    parts_that_merge_alone,
    roles_of,
)
from fxprune.analysis import AnalysisState, CapturedGraph, Choices, buffers_with_channels, run_labelled
from fxprune.arguments.inputs import as_meta
from fxprune.capture import capture
from fxprune.coupling import Coupling

# Roles of three kinds on so many axes: 81 trials.
MOST_AXES = 5
MOST_PAIRS = 6


@dataclass
class Precision:
    """The results for pairs of channels with equal uses in parameters that affect the outputs.

    Attributes:
        asked: pairs that were tried.
        alone: of those, the pairs that merge although nothing else merges.
        found: of those, the pairs in one group.
        gaps: why the others are not, in the words of the report.
        averages: why pairs are separate that merge if averages still read both.
        searched: pairs for which all roles were tried that the axes of their length allow.
        missed: of those that the analysis separates, the pairs that merge in some roles.
        too_much: groups of which a part merges alone.
    """

    asked: int = 0
    alone: int = 0
    found: int = 0
    gaps: list[str] = field(default_factory=list)
    averages: list[str] = field(default_factory=list)
    searched: int = 0
    missed: list[str] = field(default_factory=list)
    too_much: list[str] = field(default_factory=list)


def precision(coupling: Coupling, inputs: tuple[Tensor, ...], seed: int) -> Precision:
    """Try some pairs of channels of a coupling; none if a weight is computed, not stored."""
    result, model = Precision(), coupling.model()
    if coupling.functions or model is None:
        return result
    trial, draw = Trial(model, inputs), np.random.default_rng(seed)
    captured = CapturedGraph(capture(model, inputs))
    state, _ = run_labelled(captured, as_meta(inputs), Choices({}, int(coupling.whole)), buffers_with_channels(model))
    use = _roles(state)
    pairs = _pairs(state, use)
    for at in draw.permutation(len(pairs))[:MOST_PAIRS]:
        roles, pair = pairs[at]
        _try(result, trial, coupling, roles, pair)
    _search(result, trial, coupling, use, draw)
    return result


def _roles(state: AnalysisState) -> dict[Place, str]:
    """Return the role of each axis; axes without a role carry no channels."""
    read, tied = state.channels.marked(state.marks.columns), state.channels.marked(state.marks.rows)
    return {
        (origin.name, dim): READER if read[ids].all() else TIED
        for origin in state.origins.found.values()
        for dim, ids in enumerate(origin.axes)
        if ids is not None and (read[ids].all() or (tied[ids].all() and not read[ids].any()))
    }


def _pairs(state: AnalysisState, roles: dict[Place, str]) -> list[tuple[dict[Place, str], dict[Place, Pair]]]:
    """List neighbouring channels that occur equally often on each parameter axis, not outputs."""
    places: dict[int, dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for origin in state.origins.found.values():
        for dim, ids in enumerate(origin.axes):
            for position, channel in enumerate(() if ids is None else state.channels.channel(ids)):
                places[int(channel)][origin.name, dim].append(position)
    outputs = [state.channels.channel(event.ids) for event in state.marks.frozen if event.why == "graph output"]
    seen = set(np.concatenate(outputs).tolist()) if outputs else set()
    alike: dict[tuple[tuple[Place, int], ...], list[int]] = defaultdict(list)
    for channel, on in places.items():
        if channel not in seen and set(on) <= set(roles) and any(roles[axis] == TIED for axis in on):
            alike[tuple((axis, len(at)) for axis, at in on.items())].append(channel)
    return [
        ({axis: roles[axis] for axis, _ in key}, {axis: (places[a][axis], places[b][axis]) for axis, _ in key})
        for key, channels in alike.items()
        for a, b in itertools.pairwise(channels)
    ]


def _try(result: Precision, trial: Trial, coupling: Coupling, roles: dict[Place, str], pair: dict[Place, Pair]) -> None:
    axis = next(axis for axis, role in roles.items() if role == TIED)
    (i, *_), (j, *_) = pair[axis]
    found = bool(found_to_merge(coupling, axis, i, j))
    if trial.merges({axis: role for axis, role in roles.items() if role == TIED}, pair):
        return  # these rows have no readers
    result.asked += 1
    if trial.merges(roles, pair):
        result.alone += 1
        result.found += found
        if not found:
            result.gaps.append(_why(coupling, axis))
    elif not found and trial.merges(roles, pair, alone=False):
        result.averages.append(_why(coupling, axis))


def _search(
    result: Precision, trial: Trial, coupling: Coupling, use: dict[Place, str], draw: np.random.Generator
) -> None:
    """Search by brute force on one axis of rows; also find parts of a group that merge alone."""
    short = [
        axis
        for axis, role in use.items()
        if role == TIED and axis in trial.axes(length := trial.length(axis)) and len(trial.axes(length)) <= MOST_AXES
    ]
    if short:
        axis = short[draw.integers(len(short))]
        i, j = draw.choice(trial.length(axis), 2, replace=False)
        if not found_to_merge(coupling, axis, int(i), int(j)):
            result.searched += 1
            both = {axis: ([int(i)], [int(j)])}
            if not trial.merges({axis: TIED}, both) and can_merge(trial, axis, int(i), int(j), {}):
                result.missed.append(_why(coupling, axis))
    small = [group for group in coupling.groups.values() if not group.balanced and len(roles_of(group)) <= MOST_AXES]
    if small:
        group = small[draw.integers(len(small))]
        rows = {axis: role for axis, role in roles_of(group).items() if role == TIED}
        if trial.merges(roles_of(group), pair_of(group)) and not trial.merges(rows, pair_of(group)):
            result.too_much += [f"{group.name}: {some}" for some in parts_that_merge_alone(trial, group)][:1]


def _why(coupling: Coupling, axis: Place) -> str:
    text = f"{axis[0]}:{axis[1]}"
    return next((cold.why for cold in coupling.frozen if text in cold.what), "no reason is given")
