"""Merge by trial: an oracle that does not know the rules.

In some axes row j becomes row i, in others column i becomes the sum of both, and row j becomes noise. If the output
stays, the two channels could have merged there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fxprune.coupling import Coupling, Group
from fxprune.passes.verify import named_outputs, random_batch, randomised, relative_error
from fxprune.pytorch.modules import canonical_names, named_tensors

TIED, READER = "tied", "reader"
Place = tuple[str, int]  # a parameter and one of its axes
Pair = tuple[Sequence[int], Sequence[int]]  # positions that stay, positions that go


class Trial:
    """A network in float64 with random weights, in which two positions merge in some axes."""

    def __init__(self, net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.net = randomised(net).double().eval()
        drawn: Any = random_batch(inputs, 2, seed=0)
        self.inputs = tuple(x.double() if x.is_floating_point() else x for x in drawn)
        self.first, tensors = canonical_names(self.net), named_tensors(self.net)
        self.state = {name: x.detach() for name, x in tensors if x.is_floating_point() and self.first[name] == name}
        self.noise = torch.Generator().manual_seed(1)

    def axes(self, length: int) -> list[Place]:
        """List every axis of this length."""
        return [(name, dim) for name, x in self.state.items() for dim in range(x.dim()) if x.shape[dim] == length]

    def length(self, axis: Place) -> int:
        """Return the length of an axis."""
        return self.state[self.first[axis[0]]].shape[axis[1]]

    @torch.no_grad()
    def run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute the outputs with other tensors."""
        inputs = tuple(x.clone() for x in self.inputs)
        return list(named_outputs(functional_call(self.net, dict(state), inputs)).values())

    def merges(self, roles: Mapping[Place, str], pair: Mapping[Place, Pair], *, alone: bool = True) -> bool:
        """Tell whether a pair of channels merges in exactly the axes of ``roles``.

        ``alone``: nothing reads the channel that is removed; without it, averages over both may still read it.
        """
        equal, merged = dict(self.state), dict(self.state)
        for (called, dim), role in roles.items():
            i, j = (torch.as_tensor(places) for places in pair[called, dim])
            name = self.first[called]  # a shared tensor has several
            if role == TIED:
                row = equal[name].index_select(dim, i)
                equal[name] = equal[name].index_copy(dim, j, row)
                noise = torch.randn(row.shape, generator=self.noise, dtype=row.dtype).abs()
                merged[name] = merged[name].index_copy(dim, j, noise if alone else merged[name].index_select(dim, i))
            else:
                both = merged[name].index_select(dim, i) + merged[name].index_select(dim, j)
                merged[name] = merged[name].index_copy(dim, i, both).index_fill(dim, j, 0.0)
        errors = map(relative_error, self.run(equal), self.run(merged))
        return max(errors) < 1e-10  # sums in another order: 1e-15; a wrong merge: 1e-3 and more


def can_merge(trial: Trial, axis: Place, i: int, j: int, guess: Mapping[Place, str]) -> bool:
    """Tell whether some roles of axes let rows i and j of ``axis`` merge; try ``guess`` first."""
    axes = trial.axes(trial.length(axis))
    others = [other for other in axes if other != axis]
    choices = itertools.product((None, TIED, READER), repeat=len(others))
    every = ({axis: TIED, **{other: role for other, role in zip(others, roles) if role}} for roles in choices)
    pair = dict.fromkeys(axes, ([i], [j]))
    return any(trial.merges(roles, pair) for roles in itertools.chain([guess] if guess else [], every))


def found_to_merge(coupling: Coupling, axis: Place, i: int, j: int) -> dict[Place, str]:
    """Return the roles of the group's axes in which rows i and j of ``axis`` merge, if they do."""
    for group in coupling.groups.values():
        for tied in group.tied:
            if (tied.parameter, tied.dim) == axis and {i, j} <= set(tied.positions[:, 0].tolist()):
                return roles_of(group)
    return {}


def roles_of(group: Group) -> dict[Place, str]:
    """Map each axis of a group to its role."""
    sides = ((TIED, group.tied), (READER, group.readers))
    return {(axis.parameter, axis.dim): role for role, side in sides for axis in side}


def pair_of(group: Group) -> dict[Place, Pair]:
    """Return the positions of the first two channels of a group on each of its axes."""
    positions = {(axis.parameter, axis.dim): axis.positions for axis in (*group.tied, *group.readers)}
    return {axis: (places[0].tolist(), places[1].tolist()) for axis, places in positions.items()}


def parts_that_merge_alone(trial: Trial, group: Group) -> Iterator[tuple[Place, ...]]:
    """Yield each proper part of a group's axes that merges alone: it was coupled too much."""
    roles, pair = roles_of(group), pair_of(group)
    for size in range(1, len(roles)):
        for some in itertools.combinations(roles, size):
            given = {axis: roles[axis] for axis in some}
            if TIED in given.values() and trial.merges(given, pair):
                yield some
