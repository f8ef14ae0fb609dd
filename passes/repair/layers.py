"""Fit a narrow network, one layer after another, to what the wide network puts out.

A layer of the narrow network reads what the layers before it, already fitted, really feed it; its weights are changed
so that its output comes nearest to that of the wide layer, whose channels are merged to their means. (Merging columns
by their sums is the special case in which members of a cluster are equal: then nothing is lacking, and nothing
changes.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxprune.passes.calibration import Calibration, Contraction, Shares
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import storage_id

from .least_squares import Normal, best_change
from .pair import Missing, Pair

# Features that are fitted at once: their Gram matrix takes 128 MB. Of more, one block is fitted after another.
MOST_FEATURES = 4096
# Positions of a layer that are sampled in all: so many, fewer where features are few, and more where they are many.
_SAMPLES, _PER_FEATURE, _PER_FEW_FEATURES = 16384, 8, 256


@dataclass(frozen=True)
class Repair:
    """The record of the fit of one layer.

    Attributes:
        layer: name of its weight.
        before: share of the power of the wanted output that was lacking, on the inputs held back.
        after: the same after the fit.
        note: the penalty, or why nothing was changed.
    """

    layer: str
    before: float
    after: float
    note: str


@torch.no_grad()
def fit_layers(
    wide: fx.GraphModule, narrow: fx.GraphModule, plan: Plan, inputs: Calibration, shares: Shares | None = None
) -> list[Repair]:
    """Fit the weights of a narrow graph in place, one layer after another.

    Args:
        wide: the captured graph with the weights of the wide network, in eval mode.
        narrow: made from it, or from a network of its class, by ``plan``; made with ``absorb=False``.
        plan: the clusters.
        inputs: of both.
        shares: what each channel counts in the mean of its cluster, by group; None: all the same.

    Returns:
        One record for each layer that is linear in its weights.
    """
    modes = {module: module.training for module in narrow.modules()}
    narrow.eval()
    try:
        return _Fit(Pair(wide, narrow, plan, inputs, shares)).run()
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True, eq=False)
class _Shared:
    """Sums of all calls so far that use a weight, and the change of the weight so far."""

    sums: list[Normal]
    change: Tensor


class _Fit:
    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.generator = torch.Generator().manual_seed(0)
        self.shared: dict[tuple[int, int], _Shared] = {}

    def run(self) -> list[Repair]:
        done: dict[str, Repair] = {}
        for node in self.pair.layers():
            for name, found in self._fit(node):
                first = done.get(name, found)
                done[name] = Repair(name, first.before, found.after, found.note)
        return list(done.values())

    def _fit(self, node: fx.Node) -> Iterator[tuple[str, Repair]]:
        """Fit the weight of one call, a block of its features after another."""
        start, features = 0, 1
        while start < features:
            missing = self.pair.missing(node)
            if missing is None:
                return
            call = missing.calls[0]
            features = call.features
            name = self.pair.storages[storage_id(call.weight)]
            if len(set(self.pair.uses[call.weight.data_ptr()])) > 1:
                yield name, Repair(name, 0.0, 0.0, "used in several forms: keeps its summed columns")
                return
            yield name, self._fit_block(name, missing, slice(start, min(start + MOST_FEATURES, features)))
            start += MOST_FEATURES

    def _fit_block(self, name: str, missing: Missing, block: slice) -> Repair:
        call = missing.calls[0]
        key = call.weight.data_ptr(), block.start
        count = block.stop - block.start + (call.bias is not None)
        outputs = call.rows(call.out).shape[1] // call.groups
        before = self.shared.get(key)
        if before is None:
            sums = [Normal.zeros(call.groups, count, outputs, call.out.device) for _ in range(2)]
        else:
            sums = before.sums
        features = call.features
        samples = max(min(_SAMPLES, _PER_FEW_FEATURES * features), _PER_FEATURE * features) // self.pair.count + 1
        for batch, each in enumerate(missing.calls):
            short, power = missing.of(batch)
            z, r = each.sample(short, samples, self.generator)
            z = z[..., block]
            if call.bias is not None:
                z = torch.cat([z, z.new_ones(*z.shape[:2], 1)], 2)
            if before is not None:  # what was lacking before the weight was changed for earlier calls
                r = r + z @ before.change.to(z.dtype)
            sums[batch >= self.pair.fitted].add(z, r, power * r.numel())
        fit, held = sums
        judge = held if held.count else fit
        found = best_change(fit, held if held.count else None, intercept=call.bias is not None)
        change = torch.zeros_like(fit.cross) if found is None else found[0]
        _change(call, change if before is None else change - before.change, block)
        if len(self.pair.uses[key[0]]) > 1:
            self.shared[key] = _Shared(sums, change)
        wanted = max(judge.wanted, 1e-300)
        note = "no fit is better" if found is None else f"ridge {found[1]:g}"
        return Repair(name, judge.missing / wanted, judge.after(change) / wanted, note)


def _change(call: Contraction, change: Tensor, block: slice) -> None:
    """Add to some features' rows of the matrix, and to the bias."""
    if not bool(change.any()):
        return  # bit for bit the same
    if call.bias is not None:
        call.bias.add_(change[:, -1].flatten().to(call.bias.dtype))
        change = change[:, :-1]
    full = change.new_zeros(change.shape[0], call.features, change.shape[2])
    full[:, block] = change
    call.add(full.to(call.weight.dtype))
