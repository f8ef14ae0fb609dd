"""Tied parameters as rows, bundled by their length: one call averages or spreads many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.passes.merge import Clusters, on_device, rows_equal
from fxprune.pytorch.torch_private import foreach_copy_, version_of

from .tied import Tied

# Tensors of up to this many numbers are bundled: a copy takes less time than the calls that it saves.
SMALL = 2**16
# Numbers of a piece that stays in a core's cache while it is made.
PIECE = 2**16


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
        rows = _joined(every)
        return float((rows if rows.numel() <= SMALL else rows[self._seen % 8 :: 8]).sum())

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
