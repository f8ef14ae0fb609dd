"""Tied parameters as rows, bundled by their length: one matrix of means stands for many."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.passes.merge import Clusters, on_device, rows_equal
from fxprune.pytorch.torch_private import foreach_copy_, places_of, versions_of

from .means import possible_rest
from .tied import Tied

# Tensors of up to this many numbers are bundled: a copy takes less time than the calls that it saves.
SMALL = 2**16
# Numbers of a piece that stays in the cache while it is made: smaller ones cost more calls than they save.
PIECE = 2**19
# What PyTorch's pointwise optimizers remember of each number; the rest of their state is one number per parameter.
ROWS = frozenset({
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg", "acc_delta",
    "sum", "ax", "prev", "step_size",
})  # fmt: skip


def is_foreign(name: str, value: Any) -> bool:
    """Tell whether a wrapper of the optimizer, not itself, keeps this in its state."""
    return name not in ROWS and isinstance(value, Tensor) and value.numel() != 1


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
        sizes = list(parameter.shape)
        sizes[cut.dim] = self.kept
        self.wide, self.narrow = parameter.shape, torch.Size(sizes)

    def rows(self, tensor: Tensor) -> Tensor:
        """View a tensor as rows; a copy where its layout is another one."""
        return (tensor if self._plain else tensor.permute(self._order)).reshape(-1, self.columns)

    def unrolled(self, rows: Tensor) -> Tensor:
        """View rows, wide or narrow, with the axes of the parameter."""
        tensor = rows.view(rows.shape[0], *self._sizes)
        return tensor if self._plain else tensor.permute(self._inverse)

    def has_rows(self, name: str, value: Any) -> bool:
        """Tell whether a part of the optimizer's state has a row for each position or each cluster."""
        return name in ROWS and isinstance(value, Tensor) and value.shape in (self.wide, self.narrow)

    def narrowed(self, value: Tensor) -> Tensor:
        """Return one row per cluster: the common one, exactly, or else the mean."""
        if value.shape == self.narrow:
            return value
        if rows_equal(value, self.cut):
            return value.index_select(self.cut.dim, self.cut.kept)
        rows = self.rows(value)
        sums = rows.new_zeros(self.kept, self.columns).index_add_(0, self.cut.cluster, rows)
        return self.unrolled(sums.div_(self.cut.count.to(sums.dtype)[:, None]))

    def widened(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Copy a state to one row per position; it shares no memory with other parameters."""
        return {name: self._widened(name, value) for name, value in state.items()}

    def _widened(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or is_foreign(name, value):
            return value
        is_narrow = name in ROWS and value.shape == self.narrow
        return value.index_select(self.cut.dim, self.cut.cluster) if is_narrow else value.clone()


class Bundle:
    """Parameters with rows of one length, whose means are one matrix for the optimizer."""

    def __init__(self, tied: Sequence[Tied]) -> None:
        device = tied[0].parameter.device
        self.group = tied[0].group
        self.members = [Member(each, on_device(each.partitions[0], device)) for each in tied]
        self.parameters = [member.parameter for member in self.members]
        self._lengths = [member.length for member in self.members]
        self._widths = [member.kept for member in self.members]
        starts = [sum(self._widths[:index]) for index in range(len(self._widths))]
        self._cluster = torch.cat([m.cut.cluster + start for m, start in zip(self.members, starts, strict=True)])
        columns, like = self.members[0].columns, tied[0].parameter.detach()
        # Positions by cluster, where each cluster begins, and one over its count; 32 bits are read faster.
        order, count = self._cluster.argsort(stable=True), torch.bincount(self._cluster)
        self._bags = order.int(), (count.cumsum(0) - count).int()
        self._shares = count.to(like.dtype).reciprocal()[self._cluster[order]]
        self.left = 1.0
        self.narrow = nn.Parameter(like.new_empty(sum(self._widths), columns), requires_grad=False)
        self._means, self._away = self.narrow.detach(), like.new_empty(sum(self._lengths), columns)
        self.means_of, self.away_of = self._means.split(self._widths), self._away.split(self._lengths)
        many = sum(self._lengths) if like.is_cuda else max(1, PIECE * torch.get_num_threads() // max(1, columns))
        self._many = many
        self._sums, self._found = like.new_empty(2, sum(self._lengths)).unbind()
        self._pieces = list(zip(self._cluster.split(many), self._away.split(many), self._sums.split(many), strict=True))
        self._found_pieces = self._found.split(many)
        # Fractions of multiples of the golden ratio: no two numbers of a row count alike.
        self._factors = torch.arange(1, columns + 1, device=device).mul(0.6180339887).frac().add(0.5).to(like.dtype)
        self._addresses: list[int] = []
        self._versions: list[int] = []
        self._is_loaded = False  # from a state that may be of other parameters
        self._scratch = like.new_empty(0)  # a copy of the rows where they are no view
        self._plain: list[Tensor] = []
        self._parts: list[Tensor] = []
        self._rows: Tensor | None = None
        self._targets: tuple[Tensor, ...] = ()
        with torch.no_grad():
            self.read()

    def split(self, keys: Sequence[Hashable]) -> list[Bundle]:
        """Return a bundle for the parameters of each key."""
        parts: dict[Hashable, list[int]] = {}
        for index, key in enumerate(keys):
            parts.setdefault(key, []).append(index)
        return [self._part(indices) for indices in parts.values()]

    def _part(self, indices: Sequence[int]) -> Bundle:
        part = Bundle([self.members[index].tied for index in indices])
        part.load([(self.means_of[index], self.away_of[index], self.left) for index in indices])
        return part

    @torch.no_grad()
    def load(self, saved: Sequence[tuple[Tensor, Tensor, float]]) -> None:
        """Take mean, deviation at the start and what is left of it, of each parameter."""
        self.left = float(saved[0][2])
        for (mean, away, left), its_mean, its_away in zip(saved, self.means_of, self.away_of, strict=True):
            its_mean.copy_(mean)
            its_away.copy_(away)
            if left != self.left:
                its_away.mul_(left / self.left)
        self._view()
        self._is_loaded = True

    def read(self, rest: Tensor | None = None) -> None:
        """Take means and deviations from the parameters, with what rounding took."""
        self._view()
        rows = self._rows_of(self.parameters)
        self._means.copy_(self._averaged(rows))
        torch.sub(rows, self._means.index_select(0, self._cluster), out=self._away)
        if rest is not None:
            self._away.add_(possible_rest(rest, rows))
        self.left, self._is_loaded = 1.0, False
        self._note(rows)

    def _read_again(self) -> None:
        means = self._means.index_select(0, self._cluster)
        self.read(means.sub_(means.add(self._away, alpha=self.left)).add_(self._away, alpha=self.left))

    def read_again_if_changed(self) -> None:
        """Take means and deviations again if somebody else has written to a parameter since."""
        if self._is_loaded:
            self._check_loaded()
        elif places_of(self.parameters) != self._addresses or versions_of(self.parameters) != self._versions:
            self._read_again()
        else:
            self._sum(self._rows_of(self.parameters), self._found_pieces)
            if not torch.equal(self._sums, self._found):
                self._read_again()  # a write through `.data` leaves no mark but the numbers

    def _check_loaded(self) -> None:
        """Keep a loaded state where it is that of the parameters, but for rounding elsewhere."""
        self._view()
        rows = self._rows_of(self.parameters)
        away = self._means.index_select(0, self._cluster).add_(self._away, alpha=self.left).sub_(rows)
        if away.abs().max() <= 1e-6 * rows.abs().max():
            self._is_loaded = False
            self._note(rows)
        else:
            self.read()

    def _note(self, rows: Tensor) -> None:
        """Note how the parameters are, to see what others write to them; ``rows`` are their numbers."""
        self._versions = versions_of(self.parameters)
        self._sum(rows, self._sums.split(self._many))

    def _sum(self, rows: Tensor, sums: Sequence[Tensor]) -> None:
        """Sum each row with weights, in the pieces of :meth:`write`: rounding is the same."""
        pieces = self._targets if rows is self._rows else rows.split(self._many)
        for piece, out in zip(pieces, sums, strict=True):
            torch.mv(piece, self._factors, out=out)

    def _view(self) -> None:
        """Look at a single parameter as rows in its own memory; copy others, all at once."""
        self._addresses = places_of(self.parameters)
        self._plain = [parameter.detach() for parameter in self.parameters]
        first = self._plain[0]
        rows = self.members[0].rows(first)
        self._rows = rows if len(self.members) == 1 and rows.data_ptr() == first.data_ptr() else None
        self._targets = () if self._rows is None else self._rows.split(self._many)
        shape = (0 if self._targets else len(self._cluster), rows.shape[1])
        if self._scratch.shape != shape:
            self._scratch = self._means.new_empty(shape)
        parts = () if self._targets else self._scratch.split(self._lengths)
        self._parts = [member.unrolled(part) for member, part in zip(self.members, parts, strict=False)]

    def _rows_of(self, tensors: list[Tensor] | list[nn.Parameter]) -> Tensor:
        """Return tensors of the parameters' shapes as rows: views, or copies in the scratch."""
        if self._rows is not None:
            return self._rows if tensors is self.parameters else self.members[0].rows(tensors[0].to(self._means.dtype))
        foreach_copy_(self._parts, [*tensors])
        return self._scratch

    def mixed(self) -> bool:
        """Tell whether some parameters have gradients, and others have none."""
        return len({parameter.grad is None for parameter in self.parameters}) > 1

    def average_gradients(self) -> None:
        """Give the matrix of means the mean gradients of the clusters."""
        given = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.narrow.grad = self._averaged(self._rows_of(given)) if given else None

    def write(self) -> None:
        """Write mean + left * deviation to the parameters."""
        if self._rows is not None:
            for (cluster, away, sums), target in zip(self._pieces, self._targets, strict=True):
                torch.index_select(self._means, 0, cluster, out=target)
                target.add_(away, alpha=self.left)
                torch.mv(target, self._factors, out=sums)  # while it is in the cache
            self._versions = versions_of(self.parameters)
        else:
            torch.index_select(self._means, 0, self._cluster, out=self._scratch)
            self._scratch.add_(self._away, alpha=self.left)
            foreach_copy_(self._plain, self._parts)
            self._note(self._scratch)
        self._is_loaded = False

    def joined(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of the matrix of means, joined from those of the parameters."""
        joined = {name: value for name, value in states[0].items() if not is_foreign(name, value)}
        for name, value in joined.items():
            if self.members[0].has_rows(name, value):
                parts = [m.rows(m.narrowed(state[name])) for m, state in zip(self.members, states, strict=True)]
                joined[name] = torch.cat(parts)
            elif isinstance(value, Tensor):
                joined[name] = value.clone()
        return joined

    def states(self, joined: Mapping[str, Any]) -> list[dict[str, Any]]:
        """View rows of the state of the matrix of means as those of each parameter; copy the rest."""
        states: list[dict[str, Any]] = [{} for _ in self.members]
        for name, value in joined.items():
            has_rows = isinstance(value, Tensor) and value.shape == self.narrow.shape
            if has_rows:
                parts = value.split(self._widths)
            else:
                parts = [value.clone() if isinstance(value, Tensor) else value for _ in self.members]
            for member, state, part in zip(self.members, states, parts, strict=True):
                state[name] = member.unrolled(part) if has_rows else part
        return states

    def _averaged(self, rows: Tensor) -> Tensor:
        mean: Tensor = torch.embedding_bag(rows, *self._bags, per_sample_weights=self._shares)[0]
        return mean
