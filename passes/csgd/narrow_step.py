"""The optimizer steps on one row per cluster: gradients and its state have narrow sizes.

A deviation shrinks by one known number per step, so it is stored once and never touched again:
parameter = mean of its cluster + left * deviation at the start. Rounding has nothing to accumulate in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn, optim
from torch.optim import Optimizer

from .bundles import SMALL, Bundle
from .narrow_state import NarrowState
from .tied import Tied

# Optimizers that treat each number alone. Others see norms or averages, which rows that stand for many would change.
POINTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip


def steps_pointwise(optimizer: Optimizer) -> bool:
    """Tell whether a step changes each number by what belongs to this number only."""
    # A derived class may do anything. A parameter that stands in a group twice is stepped on twice.
    groups = optimizer.param_groups
    twice = any(len(group["params"]) > len(set(group["params"])) for group in groups)
    return type(optimizer) in POINTWISE and not twice and not any(group.get("differentiable") for group in groups)


def has_rows(tied: Tied) -> bool:
    """Tell whether a parameter is a matrix of real rows along its only tied axis."""
    return len(tied.partitions) == 1 and tied.parameter.is_floating_point() and tied.parameter.numel() > 0


class NarrowStep:
    """Tied parameters that the optimizer steps on by one row per cluster.

    During a step the optimizer's parameter groups hold one matrix for each bundle; between steps they hold the
    parameters, while the state of each stays narrow. State dicts and copies of the optimizer have wide state.
    """

    def __init__(self, tied: Sequence[Tied], optimizer: Optimizer) -> None:
        """Take the present means and deviations; every parameter has one tied axis."""
        self._optimizer, self._state = optimizer, NarrowState(optimizer)
        members: dict[Any, list[Tied]] = {}
        for each in tied:
            parameter = each.parameter
            columns = parameter.numel() // parameter.shape[each.partitions[0].dim]
            alone = parameter.numel() > SMALL
            key = each.name if alone else (each.group, parameter.device, parameter.dtype, columns)
            members.setdefault(key, []).append(each)
        self._bundles = [Bundle(each) for each in members.values()]
        self._wide: list[list[nn.Parameter]] = []  # of each parameter group, during a step
        self._lefts: list[float] = []  # of each bundle, after a step, until all are written
        self._known: list[list[int]] = []
        self._narrow: list[list[nn.Parameter]] = []
        if self._bundles:
            copies = vars(optimizer).setdefault("__getstate__", _WideCopies(optimizer))
            copies.steps.append(self)

    def __bool__(self) -> bool:
        """Tell whether any step is taken on rows."""
        return bool(self._bundles)

    @torch.no_grad()
    def begin(self) -> None:
        """Hand the means and their mean gradients to the optimizer."""
        if not self._bundles:
            return
        for bundle in self._bundles:
            bundle.read_again_if_changed()
        as_left = self._state.is_as_left()
        if not as_left or any(bundle.mixed() for bundle in self._bundles):
            as_left = not self._split() and as_left
        groups = self._optimizer.param_groups
        wide = [group["params"] for group in groups]
        known = [list(map(id, params)) for params in wide]
        if known != self._known:
            self._narrow, self._known = self._narrowed(wide), known
        for bundle in self._bundles:
            bundle.average_gradients()
        self._wide = wide  # from here on, `end` takes back whatever was done
        self._state.enter(self._bundles, as_left=as_left)
        for group, params in zip(groups, self._narrow, strict=True):
            group["params"] = params

    def _split(self) -> bool:
        """Bundle only what takes equal steps, and tell whether that was needed."""
        keys = [(bundle, self._state.keys(bundle)) for bundle in self._bundles]
        needed = any(len(set(each)) > 1 for _, each in keys)
        if needed:
            parts = [bundle.split(each) if len(set(each)) > 1 else [bundle] for bundle, each in keys]
            self._bundles = [bundle for part in parts for bundle in part]
            self._known = []
        return needed

    def _narrowed(self, wide: Sequence[Sequence[nn.Parameter]]) -> list[list[nn.Parameter]]:
        owners = {parameter: bundle for bundle in self._bundles for parameter in bundle.parameters}
        return [list(dict.fromkeys(owners[p].narrow if p in owners else p for p in params)) for params in wide]

    @torch.no_grad()
    def end(self, shrink: Sequence[float] | None = None) -> None:
        """Take back the means and write every parameter; without a step, do nothing.

        Args:
            shrink: of each parameter group of the optimizer; None: 1, after a step that failed.
        """
        if not self._wide:
            return
        for group, params in zip(self._optimizer.param_groups, self._wide, strict=True):
            group["params"] = params
        self._state.leave(self._bundles)
        if shrink is not None and not self._lefts:
            self._lefts = [bundle.left * shrink[bundle.group] for bundle in self._bundles]
        if self._lefts:  # also where a signal came before all were written
            for bundle, left in zip(self._bundles, self._lefts, strict=True):
                bundle.left = left
                bundle.write()
        else:  # the parameters are as they were, or as somebody has written them since
            for bundle in self._bundles:
                bundle.read()
        self._wide, self._lefts = [], []

    @torch.no_grad()
    def wide_state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict of the optimizer with the shapes of the parameters."""
        twins: dict[Any, nn.Parameter] = {}
        for packed, group in zip(state["param_groups"], self._optimizer.param_groups, strict=True):
            twins |= dict(zip(packed["params"], group["params"], strict=True))
        known = {twins[i]: each for i, each in state["state"].items() if i in twins}
        wide = self._state.widened(self._bundles, known)
        tensors = {i: wide[twins[i]] if i in twins else each for i, each in state["state"].items()}
        return {**state, "state": dict(sorted(tensors.items()))}  # a step changes their order

    def widened(self, state: Mapping[Any, dict[str, Any]]) -> Mapping[Any, dict[str, Any]]:
        """Copy the optimizer's state with the shapes of the parameters."""
        return self._state.widened(self._bundles, state)

    @torch.no_grad()
    def release(self) -> None:
        """Give the optimizer its state with the shapes of the parameters, for good."""
        state = self._optimizer.state
        state.update(self._state.widened(self._bundles, state))
        copies = vars(self._optimizer).get("__getstate__")
        if isinstance(copies, _WideCopies) and self in copies.steps:
            copies.steps.remove(self)
            if not copies.steps:
                del vars(self._optimizer)["__getstate__"]

    def state_dict(self) -> dict[str, Any]:
        """Return means, deviations at the start, and what is left of them, by name."""
        return {
            member.tied.name: {"mean": mean.clone(), "deviation": away.clone(), "left": bundle.left}
            for bundle in self._bundles
            for member, mean, away in zip(bundle.members, bundle.means_of, bundle.away_of, strict=True)
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a :meth:`state_dict`; the parameters must be those that it was taken with."""
        for bundle in self._bundles:
            known = [state[member.tied.name] for member in bundle.members if member.tied.name in state]
            if len(known) < len(bundle.members):  # of an earlier version: the parameters tell the rest
                bundle.read()
            else:
                bundle.load([(each["mean"], each["deviation"], each["left"]) for each in known])


class _WideCopies:
    """The method by which PyTorch copies and pickles an optimizer, without its hooks."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.steps: list[NarrowStep] = []

    @torch.no_grad()
    def __call__(self) -> dict[str, Any]:
        """Return what a copy of the optimizer holds: the parameters, and state of their shapes."""
        for step in self.steps:
            step.end()
        held = type(self._optimizer).__getstate__(self._optimizer)
        state = held["state"]
        for step in self.steps:
            state = step.widened(state)
        return {**held, "state": defaultdict(dict, state)}
