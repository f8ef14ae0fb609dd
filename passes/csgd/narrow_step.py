"""The optimizer steps on one row per cluster: gradients and its state have narrow sizes.

A deviation shrinks by one known number per step, so it is stored once and never touched again:
parameter = mean of its cluster + left * deviation at the start. Rounding has nothing to accumulate in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from .bundles import SMALL, Bundle, Member
from .tied import Tied

# Optimizers that treat each number alone. Others see norms or averages, which rows that stand for many would change.
POINTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip


def steps_pointwise(optimizer: Optimizer) -> bool:
    """Tell whether a step changes each number by what belongs to this number only."""
    # A derived class may do anything.
    return type(optimizer) in POINTWISE and not any(g.get("differentiable") for g in optimizer.param_groups)


def has_rows(tied: Tied) -> bool:
    """Tell whether a parameter is a matrix of real rows along its only tied axis."""
    return len(tied.partitions) == 1 and tied.parameter.is_floating_point() and tied.parameter.numel() > 0


class NarrowStep:
    """Tied parameters that the optimizer steps on by one row per cluster.

    During a step the optimizer's parameter groups hold the narrow rows; between steps they hold the parameters, while
    the state of each stays narrow. :meth:`widen_state` and :meth:`narrow_state` translate it for state dicts.
    """

    def __init__(self, tied: Sequence[Tied], optimizer: Optimizer) -> None:
        """Take the present means and deviations; every parameter has one tied axis."""
        self._optimizer = optimizer
        members: dict[Any, list[Tied]] = {}
        for each in tied:
            parameter = each.parameter
            columns = parameter.numel() // parameter.shape[each.partitions[0].dim]
            alone = parameter.numel() > SMALL
            key = each.name if alone else (each.group, parameter.device, parameter.dtype, columns)
            members.setdefault(key, []).append(each)
        self._bundles = [Bundle(each) for each in members.values()]
        self._begun = False
        if self._bundles:  # PyTorch copies and pickles an optimizer by this method, without its hooks
            optimizer.__getstate__ = self._copied  # type: ignore[method-assign]

    @torch.no_grad()
    def begin(self) -> None:
        """Hand the narrow rows and their mean gradients to the optimizer."""
        narrow: dict[nn.Parameter, nn.Parameter] = {}
        for bundle in self._bundles:
            bundle.read_again_if_changed()
            bundle.average_gradients()
            narrow |= dict(zip(bundle.parameters, bundle.narrow, strict=True))
        self._hand_over(narrow)
        self._begun = True

    @torch.no_grad()
    def end(self, shrink: Sequence[float] | None = None) -> None:
        """Take back the narrow rows and write every parameter; without a step, do nothing.

        Args:
            shrink: of each parameter group of the optimizer; None: 1, after a step that failed.
        """
        if not self._begun:
            return
        self._begun = False
        members = [member for bundle in self._bundles for member in bundle.members]
        self._hand_over({member.narrow: member.parameter for member in members})
        for bundle in self._bundles:
            bundle.drop_gradients()
            if shrink is not None:
                bundle.left *= shrink[bundle.group]
                bundle.write()
            else:  # the parameters are as they were, or as somebody has written them since
                bundle.read()

    def _hand_over(self, owners: Mapping[nn.Parameter, nn.Parameter]) -> None:
        """Give the places and the state of some parameters in the optimizer to others."""
        state = self._optimizer.state
        for group in self._optimizer.param_groups if owners else ():
            group["params"] = [owners.get(parameter, parameter) for parameter in group["params"]]
        for old, new in owners.items():
            if old in state:
                state[new] = state.pop(old)

    def narrow_state(self) -> None:
        """Keep one row per cluster of the optimizer's state: the common one, or else the mean."""
        self._change_state(lambda member: member.parameter.shape, Member.average)

    def widen_state(self) -> None:
        """Give the optimizer's state the shapes of the parameters, in place."""
        self._change_state(lambda member: member.narrow.shape, Member.spread)

    @torch.no_grad()
    def _change_state(self, shape: Callable[[Member], torch.Size], change: Callable[[Member, Tensor], Tensor]) -> None:
        """Change the tensors of the state that have the ``shape`` of their parameter."""
        for member in (member for bundle in self._bundles for member in bundle.members):
            state = self._optimizer.state.get(member.parameter, {})
            state.update({n: change(member, value) for n, value in state.items() if _has_shape(value, shape(member))})

    @torch.no_grad()
    def wide_state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict of the optimizer with the shapes of the parameters."""
        members = {member.parameter: member for bundle in self._bundles for member in bundle.members}
        tensors = dict(state["state"])
        for packed, group in zip(state["param_groups"], self._optimizer.param_groups, strict=True):
            for index, parameter in zip(packed["params"], group["params"], strict=True):
                if parameter in members and index in tensors:
                    tensors[index] = self._widened(members[parameter], tensors[index])
        return {**state, "state": dict(sorted(tensors.items()))}  # a step changes their order

    def _copied(self) -> dict[str, Any]:
        """Return what a copy of the optimizer holds: the parameters, and state of their shapes."""
        self.end()
        held = type(self._optimizer).__getstate__(self._optimizer)
        members = {member.parameter: member for bundle in self._bundles for member in bundle.members}
        wide = {
            parameter: self._widened(members[parameter], each) if parameter in members else each
            for parameter, each in held["state"].items()
        }
        return {**held, "state": defaultdict(dict, wide)}

    @torch.no_grad()
    def _widened(self, member: Member, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: member.spread(value) if _has_shape(value, member.narrow.shape) else value
            for name, value in state.items()
        }

    def release(self) -> None:
        """Let copies of the optimizer hold its state as it is."""
        vars(self._optimizer).pop("__getstate__", None)

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
            saved = [state.get(member.tied.name) for member in bundle.members]
            known = [each for each in saved if each is not None]
            if len(known) < len(saved):  # of an earlier version: the parameters tell the rest
                bundle.read()
                continue
            bundle.left = float(known[0]["left"])
            for each, mean, away in zip(known, bundle.means_of, bundle.away_of, strict=True):
                mean.copy_(each["mean"])
                away.copy_(each["deviation"])
                if each["left"] != bundle.left:
                    away.mul_(each["left"] / bundle.left)
            bundle.note()


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape
