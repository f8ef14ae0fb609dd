"""The optimizer's state: of each parameter between steps, of each matrix of means in one."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fxprune.common.objects import are_same
from fxprune.pytorch.torch_private import foreach_copy_, places_of, versions_of

from .bundles import Bundle, Member, is_foreign

State = dict[Any, dict[str, Any]]


class NarrowState:
    """Two states of one optimizer that share their memory.

    Between steps each parameter has its rows of a matrix as a view, so that what somebody writes there counts, and
    copies of other tensors, as of the count of steps. What somebody replaces there, or writes to a copy, is joined
    again, averaged where it is wide.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._outside: State = {}
        self._inside: State = defaultdict(dict)
        self._noted: tuple[list[Any], list[Any]] = [], []
        self._tensors: list[Tensor] = []  # of those between steps
        self._copies: tuple[list[Tensor], list[Tensor]] = [], []  # between steps, and what they are copies of
        self._marks: tuple[list[int], list[int]] = [], []

    def is_as_left(self) -> bool:
        """Tell whether the state between steps is what :meth:`leave` left."""
        state: State = self._optimizer.state
        return state is self._outside and are_same(_contents(state), self._noted[0]) and self._marks == self._marked()

    def _marked(self) -> tuple[list[int], list[int]]:
        """List the addresses of tensors between steps, and how often copies were written to."""
        return places_of(self._tensors), versions_of(self._copies[0])

    def enter(self, bundles: Sequence[Bundle], *, as_left: bool) -> None:
        """Give the optimizer the state of the bundles, whose parameters have equal scalars each."""
        if not as_left:
            self._outside = self._optimizer.state
            held = {parameter for bundle in bundles for parameter in bundle.parameters}
            inside = defaultdict(dict, {key: each for key, each in self._outside.items() if key not in held})
            for bundle in bundles:
                states = [self._outside.get(parameter, {}) for parameter in bundle.parameters]
                if states[0]:
                    joined = inside[bundle.narrow] = bundle.joined(states)  # here, and one by one: wide ones go
                    self._update(bundle, joined)
            self._publish(bundles, inside)
        self._optimizer.state = self._inside  # type: ignore[assignment]

    def leave(self, bundles: Sequence[Bundle]) -> None:
        """Give the optimizer the state of the parameters back, if it has that of the bundles."""
        if self._optimizer.state is not self._inside:
            return
        if are_same(_contents(self._inside), self._noted[1]):
            if self._copies[0]:
                foreach_copy_(*self._copies)
        else:
            self._publish(bundles, self._inside)
        self._marks = self._marked()
        self._optimizer.state = self._outside  # type: ignore[assignment]

    def _update(self, bundle: Bundle, joined: dict[str, Any]) -> list[dict[str, Any]]:
        """Let each parameter have its rows of a joined state, and keep what is of others."""
        states = bundle.states(joined)
        for parameter, state in zip(bundle.parameters, states, strict=True):
            former = self._outside.get(parameter, {})
            state.update((name, value) for name, value in former.items() if is_foreign(name, value))
            if state:
                self._outside[parameter] = state
        return states

    def _publish(self, bundles: Sequence[Bundle], inside: State) -> None:
        """Let the state between steps be that of the step; whatever breaks this off, none is lost."""
        narrow = {bundle.narrow for bundle in bundles}
        self._outside.update((key, each) for key, each in inside.items() if key not in narrow)
        copies: tuple[list[Tensor], list[Tensor]] = [], []
        for bundle in bundles:
            joined = inside.get(bundle.narrow, {})
            states = self._update(bundle, joined)
            for name, value in joined.items():
                if isinstance(value, Tensor) and value.shape != bundle.narrow.shape:
                    copies[0].extend(state[name] for state in states)
                    copies[1].extend([value] * len(states))
        self._noted = _contents(self._outside), _contents(inside)
        self._tensors = [each for each in self._noted[0] if isinstance(each, Tensor)]
        self._copies, self._inside = copies, inside

    def keys(self, bundle: Bundle) -> list[Hashable]:
        """Return what parameters that share a matrix have in common: gradient or none, and scalars."""
        state = self._optimizer.state
        return [_key(member, state.get(member.parameter, {})) for member in bundle.members]

    def widened(self, bundles: Sequence[Bundle], state: Mapping[Any, dict[str, Any]]) -> State:
        """Copy a state between steps with the shapes of the parameters."""
        members = {member.parameter: member for bundle in bundles for member in bundle.members}
        return {key: members[key].widened(each) if key in members else each for key, each in state.items()}


def _key(member: Member, state: Mapping[str, Any]) -> Hashable:
    own = ((name, value) for name, value in state.items() if not is_foreign(name, value))
    scalars = sorted((name, _scalar(member, name, value)) for name, value in own)
    return member.parameter.grad is None, tuple(scalars)


def _scalar(member: Member, name: str, value: Any) -> str:
    if member.has_rows(name, value):
        return "rows"
    if isinstance(value, Tensor):
        return repr(value.item()) if value.numel() == 1 else f"of its own {id(value)}"
    return repr(value)


def _contents(state: State) -> list[Any]:
    """List keys and values; while the list lives, no other object takes their place."""
    values = (each.values() if isinstance(each, dict) else (each,) for each in state.values())
    return [*state, *itertools.chain.from_iterable(values)]
