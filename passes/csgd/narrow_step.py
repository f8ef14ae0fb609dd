"""The optimizer steps on one row per cluster: gradients and its state have narrow sizes.

A deviation shrinks by one known number per step, so it is stored once and never touched again:
parameter = mean of its cluster + left * deviation at the start. Rounding has nothing to accumulate in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from fxprune.common.torch_private import foreach_copy_, version_of
from fxprune.passes.merge import Clusters, on_device, rows_equal

from .tied import Tied

# Optimizers that treat each number alone. Others see norms or averages, which rows that stand for many would change.
POINTWISE = (
    optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop, optim.Adagrad,
    optim.Adadelta, optim.ASGD, optim.Rprop,
)  # fmt: skip

# Tensors of up to this many numbers are bundled: a copy takes less time than the calls that it saves.
SMALL = 2**16
# Numbers of a piece that stays in a core's cache while it is made.
PIECE = 2**16


def steps_pointwise(optimizer: Optimizer) -> bool:
    """Tell whether a step changes each number by what belongs to this number only."""
    # A derived class may do anything.
    return type(optimizer) in POINTWISE and not any(g.get("differentiable") for g in optimizer.param_groups)


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
        self._swapped: list[tuple[list[nn.Parameter], list[nn.Parameter]]] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Hand the narrow rows and their mean gradients to the optimizer."""
        narrow: dict[nn.Parameter, nn.Parameter] = {}
        for bundle in self._bundles:
            bundle.read_again_if_changed()
            bundle.average_gradients()
            narrow |= dict(zip(bundle.parameters, bundle.narrow, strict=True))
        if not narrow:
            return
        for group in self._optimizer.param_groups:
            wide = group["params"]
            group["params"] = [narrow.get(parameter, parameter) for parameter in wide]
            self._swapped.append((wide, group["params"]))
        self._move_state(narrow)

    @torch.no_grad()
    def end(self, shrink: Sequence[float] | None = None) -> None:
        """Take back the narrow rows and write every parameter; without a step, do nothing.

        Args:
            shrink: of each parameter group of the optimizer; None: 1, after a step that failed.
        """
        swapped, self._swapped = self._swapped, []
        if not swapped:
            return
        for group, (wide, narrow) in zip(self._optimizer.param_groups, swapped, strict=False):
            if group["params"] is narrow:
                group["params"] = wide
        members = [member for bundle in self._bundles for member in bundle.members]
        self._move_state({member.narrow: member.parameter for member in members})
        for bundle in self._bundles:
            if shrink is not None:
                bundle.left *= shrink[bundle.group]
            bundle.drop_gradients()
            bundle.write()

    def _move_state(self, owners: Mapping[nn.Parameter, nn.Parameter]) -> None:
        state = self._optimizer.state
        for old, new in owners.items():
            if old in state:
                state[new] = state.pop(old)

    @torch.no_grad()
    def narrow_state(self) -> None:
        """Keep one row per cluster of the optimizer's state: the common one, or else the mean."""
        for bundle in self._bundles:
            for member in bundle.members:
                for name, value in self._tensors_of(member.parameter, member.parameter.shape):
                    self._optimizer.state[member.parameter][name] = member.average(value)

    @torch.no_grad()
    def widen_state(self) -> None:
        """Give the optimizer's state the shapes of the parameters, in place."""
        for bundle in self._bundles:
            for member in bundle.members:
                for name, value in self._tensors_of(member.parameter, member.narrow.shape):
                    self._optimizer.state[member.parameter][name] = member.spread(value)

    @torch.no_grad()
    def wide_state_dict(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state dict of the optimizer with the shapes of the parameters."""
        members = {member.parameter: member for bundle in self._bundles for member in bundle.members}
        tensors = dict(state["state"])
        for packed, group in zip(state["param_groups"], self._optimizer.param_groups, strict=True):
            for index, parameter in zip(packed["params"], group["params"], strict=True):
                if parameter in members and index in tensors:
                    member = members[parameter]
                    tensors[index] = {
                        name: member.spread(value) if _has_shape(value, member.narrow.shape) else value
                        for name, value in tensors[index].items()
                    }
        return {**state, "state": dict(sorted(tensors.items()))}  # a step changes their order

    def _tensors_of(self, parameter: nn.Parameter, shape: torch.Size) -> list[tuple[str, Tensor]]:
        state = self._optimizer.state.get(parameter, {})
        return [(name, value) for name, value in state.items() if _has_shape(value, shape)]

    def state_dict(self) -> dict[str, Any]:
        """Return means, deviations at the start, and what is left of them, by name."""
        return {
            member.tied.name: {"mean": mean, "deviation": away, "left": bundle.left}
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


class Member:
    """A parameter seen as rows: its tied axis first, the others in the order of memory."""

    def __init__(self, tied: Tied, cut: Clusters) -> None:
        self.tied, self.cut = tied, cut
        self.parameter = parameter = tied.parameter
        strides = parameter.stride()
        others = sorted((axis for axis in range(parameter.dim()) if axis != cut.dim), key=lambda axis: -strides[axis])
        self._order = [cut.dim, *others]
        self._inverse = sorted(range(len(self._order)), key=self._order.__getitem__)
        self._plain = self._order == sorted(self._order)
        self._sizes = [parameter.shape[axis] for axis in others]
        self.columns = math.prod(self._sizes)
        self.length, self.kept = parameter.shape[cut.dim], len(cut.kept)
        self.narrow = nn.Parameter(requires_grad=False)

    def rows(self, tensor: Tensor) -> Tensor:
        """View a wide tensor as rows; a copy where its layout is another one."""
        return (tensor if self._plain else tensor.permute(self._order)).reshape(-1, self.columns)

    def unrolled(self, rows: Tensor) -> Tensor:
        """View rows, wide or narrow, with the axes of the parameter."""
        tensor = rows.view(rows.shape[0], *self._sizes)
        return tensor if self._plain else tensor.permute(self._inverse)

    def average(self, wide: Tensor) -> Tensor:
        """Return one row per cluster of a wide tensor: exactly the common one where rows are equal."""
        if rows_equal(wide, self.cut):
            return wide.index_select(self.cut.dim, self.cut.kept)
        rows = self.rows(wide)
        sums = rows.new_zeros(self.kept, self.columns).index_add_(0, self.cut.cluster, rows)
        return self.unrolled(sums.div_(self.cut.count.to(sums.dtype)[:, None]))

    def spread(self, narrow: Tensor) -> Tensor:
        """Return the row of its cluster for each position."""
        return narrow.index_select(self.cut.dim, self.cut.cluster)


class Bundle:
    """Parameters with rows of one length, averaged and spread in one call each."""

    def __init__(self, tied: Sequence[Tied]) -> None:
        device = tied[0].parameter.device
        self.group = tied[0].group
        self.members = [Member(each, on_device(each.partitions[0], device)) for each in tied]
        self.parameters = [member.parameter for member in self.members]
        self._lengths = [member.length for member in self.members]
        self._widths = [member.kept for member in self.members]
        starts = [sum(self._widths[:index]) for index in range(len(self._widths))]
        self._cluster = torch.cat([m.cut.cluster + start for m, start in zip(self.members, starts, strict=True)])
        count = torch.bincount(self._cluster)
        # Positions by cluster, and where each cluster begins; 32 bits are read faster.
        self._sorted = self._cluster.argsort(stable=True).int()
        self._begins = (count.cumsum(0) - count).int()
        self._count = count[:, None].to(tied[0].parameter.dtype)
        self.left = 1.0
        columns, like = self.members[0].columns, tied[0].parameter.detach()
        self._means, self._gradients = like.new_empty(2, sum(self._widths), columns).unbind()
        self._away = like.new_empty(sum(self._lengths), columns)
        self.means_of = self._means.split(self._widths)
        self.away_of = self._away.split(self._lengths)
        gradients = self._gradients.split(self._widths)
        self._gradients_of = [member.unrolled(each) for member, each in zip(self.members, gradients, strict=True)]
        for member, mean in zip(self.members, self.means_of, strict=True):
            member.narrow = nn.Parameter(member.unrolled(mean), requires_grad=member.parameter.requires_grad)
        self.narrow = [member.narrow for member in self.members]
        self._marks: list[tuple[int, int]] = []
        self._rows: list[Tensor] = []  # of the parameters
        self._seen, self._sum = 0, 0.0
        self._cut: list[tuple[Tensor, ...]] = []
        self._scratch = like.new_empty(0)
        with torch.no_grad():
            self.read()

    def read(self) -> None:
        """Take means and deviations from the parameters as they are."""
        self._rows, self._cut = self._read_rows(), []
        rows = _joined(self._rows)
        torch.div(self._summed(rows), self._count, out=self._means)
        torch.sub(rows, self._means.index_select(0, self._cluster), out=self._away)
        self.left = 1.0
        self.note()

    def note(self) -> None:
        """Note how the parameters are, to see what others write to them."""
        self._seen += 1
        self._marks, self._sum = self._marks_now(), self._sum_now()

    def read_again_if_changed(self) -> None:
        """Take means and deviations again if somebody else has written to a parameter since."""
        # A write through `.data` leaves no mark but the numbers.
        if self._marks != self._marks_now() or self._sum != self._sum_now():
            self.read()

    def _read_rows(self) -> list[Tensor]:
        return [member.rows(member.parameter.detach()) for member in self.members]

    def _are_views(self) -> bool:
        pairs = zip(self._rows, self.parameters, strict=True)
        return all(rows.data_ptr() == parameter.data_ptr() for rows, parameter in pairs)

    def _marks_now(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), version_of(parameter)) for parameter in self.parameters]

    def _sum_now(self) -> float:
        """Sum small parameters, and each eighth row of large ones, others in each step."""
        every = self._rows if self._are_views() else self._read_rows()
        return float(_joined(every).sum() if len(every) > 1 else every[0][self._seen % 8 :: 8].sum())

    def average_gradients(self) -> None:
        """Give the narrow rows the means of the gradients of their clusters."""
        given = [parameter.grad for parameter in self.parameters]
        present = [gradient for gradient in given if gradient is not None]
        if present:
            rows = [
                away if gradient is None else member.rows(gradient)  # any numbers: nobody takes their mean
                for member, gradient, away in zip(self.members, given, self.away_of, strict=True)
            ]
            torch.div(self._summed(_joined(rows)), self._count, out=self._gradients)
        for narrow, gradient, mean in zip(self.narrow, given, self._gradients_of, strict=True):
            narrow.grad = None if gradient is None else mean

    def drop_gradients(self) -> None:
        """Remove the gradients of parameters where the step removed those of their narrow rows."""
        for narrow, parameter in zip(self.narrow, self.parameters, strict=True):
            if narrow.grad is None:
                parameter.grad = None

    def write(self) -> None:
        """Write mean + left * deviation to the parameters."""
        if not self._are_views():  # or the parameter has other memory by now
            self._rows, self._cut = self._read_rows(), []
        if len(self._rows) == 1 and self._are_views():
            self._write_in_pieces()
        else:
            rows = self._means.index_select(0, self._cluster).add_(self._away, alpha=self.left)
            parts = zip(self.members, rows.split(self._lengths), strict=True)
            foreach_copy_([p.detach() for p in self.parameters], [member.unrolled(part) for member, part in parts])
        self.note()

    def _write_in_pieces(self) -> None:
        """Write pieces that stay in the caches while they are made."""
        rows = self._rows[0]
        if not self._cut:
            many = len(rows) if rows.is_cuda else max(1, PIECE * torch.get_num_threads() // rows.shape[1])
            self._scratch = rows.new_empty(min(many, len(rows)), rows.shape[1])
            self._cut = list(zip(*(x.split(many) for x in (self._cluster, self._away, rows)), strict=True))
        for cluster, away, target in self._cut:
            mean = torch.index_select(self._means, 0, cluster, out=self._scratch[: len(target)])
            torch.add(mean, away, alpha=self.left, out=target)

    def _summed(self, rows: Tensor) -> Tensor:
        return F.embedding_bag(self._sorted, rows, self._begins, mode="sum")


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape
