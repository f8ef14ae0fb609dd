"""Fit a narrow network, one layer after another, to what the wide network puts out.

Both networks run side by side, node by node, on the same inputs. A layer of the narrow network reads what the layers
before it, already fitted, really feed it; its weights are changed so that its output comes nearest to that of the wide
layer, whose channels are merged to their means. (Merging columns by their sums is the special case in which members of
a cluster are equal: then nothing is missing, and nothing changes.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.common.modules import device_of, named_tensors
from fxprune.common.torch_private import pytree, storage_id
from fxprune.coupling import Shape
from fxprune.passes.calibration import (
    Calibration,
    Contraction,
    Execution,
    Observer,
    Shares,
    merge_value,
    observe,
)
from fxprune.passes.rewrite import WIDE
from fxprune.plans import Plan

from .least_squares import Normal, best_change

# A matrix with more rows is not fitted: its Gram matrix alone would take 128 MB.
MOST_FEATURES = 4096
# Positions of a layer that are sampled in all: at least so many, and so many for each feature.
_SAMPLES, _PER_FEATURE = 16384, 8


@dataclass(frozen=True)
class Repair:
    """What became of one layer.

    Attributes:
        layer: name of its weight.
        before: share of the wanted output's power that was missing, on the inputs held back.
        after: the same after the fit.
        note: why it was not fitted, or the penalty.
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
        return _Fit(wide, narrow, plan, inputs, shares).run()
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Fit:
    """Both executions, and outputs of the wide one that the narrow one has not reached yet."""

    def __init__(
        self, wide: fx.GraphModule, narrow: fx.GraphModule, plan: Plan, inputs: Calibration, shares: Shares | None
    ) -> None:
        device = device_of(narrow)
        batches = [
            pytree.tree_map_only(Tensor, lambda x: x.to(device), batch) for batch in (*inputs.batches, *inputs.held)
        ]
        self.fitted, self.count = len(inputs.batches), len(batches)
        self.plan, self.shares = plan, shares
        self.wide, self.narrow = Execution(wide, batches), Execution(narrow, batches)
        self.storages = {storage_id(tensor): name for name, tensor in named_tensors(narrow)}
        self.pending = iter(self.wide.nodes)
        self.targets: dict[str, list[Tensor]] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.used = self._uses(narrow, batches[0])

    def _uses(self, narrow: fx.GraphModule, batch: Any) -> dict[int, int]:
        """Count the operations that use each weight."""
        execution, observer = Execution(narrow, [batch]), observe(self.storages)
        self.wanted: set[str] = set()
        for node in execution.nodes:
            before = len(observer.seen)
            execution.compute(node, 0, observer if node.op.startswith("call") else None)
            if len(observer.seen) > before and WIDE in node.meta:
                self.wanted |= {each.meta[WIDE] for each in (node, *self._behind(node)) if WIDE in each.meta}
            execution.free(node)
        uses: dict[int, int] = {}
        for found in observer.seen:
            uses[found.weight.data_ptr()] = uses.get(found.weight.data_ptr(), 0) + 1
        return uses

    @staticmethod
    def _behind(node: fx.Node) -> list[fx.Node]:
        """List the nodes that read a node and nothing but it reads, one after another, up to four."""
        chain: list[fx.Node] = []
        while len(node.users) == 1 and len(chain) < 4:
            (node,) = node.users
            if node.op == "output":
                break
            chain.append(node)
        return chain

    def run(self) -> list[Repair]:
        done: list[Repair] = []
        for node in self.narrow.nodes:
            seen = [self._observed(node, batch) for batch in range(self.count)]
            if all(len(each) == 1 for each in seen) and isinstance(seen[0][0], Contraction) and WIDE in node.meta:
                found = self._contraction(node, [each[0] for each in seen])
                done += [found] if found is not None else []
                for batch in range(self.count):
                    self.narrow.compute(node, batch)
            self.narrow.free(node)
            self.targets.pop(node.meta.get(WIDE, ""), None)
        return done

    def _observed(self, node: fx.Node, batch: int) -> list[Any]:
        if not node.op.startswith("call"):
            self.narrow.compute(node, batch)
            return []
        observer: Observer = observe(self.storages)
        self.narrow.compute(node, batch, observer)
        return observer.seen

    def _target(self, node: fx.Node) -> list[Tensor] | None:
        """Run the wide graph up to the node that a narrow one replaces; return its merged values."""
        name = node.meta.get(WIDE, "")
        while name in self.wanted and name not in self.targets:
            wide = next(self.pending, None)
            if wide is None:
                break
            values = [self.wide.compute(wide, batch) for batch in range(self.count)]
            facts = self.plan.coupling.nodes.get(wide.name)
            if wide.name in self.wanted and facts is not None and isinstance(facts.value, Shape):
                # Copies: a later operation may write to the value in place.
                self.targets[wide.name] = [
                    merge_value(value, facts.value, self.plan, self.shares).clone() for value in values
                ]
            self.wide.free(wide)
        return self.targets.get(name)

    def _contraction(self, node: fx.Node, seen: list[Contraction]) -> Repair | None:
        name = self.storages[storage_id(seen[0].weight)]
        if self.used.get(seen[0].weight.data_ptr(), 0) > 1:
            return Repair(name, 0.0, 0.0, "shared by several calls: keeps its summed columns")
        first, intercept = seen[0], seen[0].bias is not None
        features = first.features + intercept
        if features > MOST_FEATURES:
            return Repair(name, 0.0, 0.0, f"{features} features are too many to fit: keeps its summed columns")
        missing = self._missing(node, seen)
        if missing is None:
            return None
        outputs = first.rows(first.out).shape[1] // first.groups
        sums = [Normal.zeros(first.groups, features, outputs, first.out.device) for _ in range(2)]
        samples = max(_SAMPLES, _PER_FEATURE * features) // self.count + 1
        for batch, (call, (short, power)) in enumerate(zip(seen, missing, strict=True)):
            z, r = call.sample(short, samples, self.generator)
            if intercept:
                z = torch.cat([z, z.new_ones(*z.shape[:2], 1)], 2)
            sums[batch >= self.fitted].add(z, r, power * r.numel())
        fit, held = sums
        found = best_change(fit, held if held.count else None, intercept=intercept)
        judge = held if held.count else fit
        before = judge.missing / max(judge.wanted, 1e-300)
        if found is None:
            return Repair(name, before, before, "no fit is better")
        change, penalty = found
        after = judge.after(change) / max(judge.wanted, 1e-300)
        if intercept:
            assert first.bias is not None
            first.bias.add_(change[:, -1].flatten().to(first.bias.dtype))
            change = change[:, :-1]
        first.add(change.to(first.weight.dtype))
        return Repair(name, before, after, f"ridge {penalty:g}")

    def _missing(self, node: fx.Node, seen: list[Contraction]) -> list[tuple[Tensor, float]] | None:
        """Return what each output lacks, and the mean square of what is wanted, for each batch.

        Where only additions and factors of channels follow, what their result lacks counts: the layer then makes up
        for what the other addends lack.
        """
        values = [self.narrow.value(node, batch) for batch in range(self.count)]
        targets = self._target(node)
        for value, call in zip(values, seen, strict=True):
            if not isinstance(value, Tensor) or not _same_memory(value, call.out):
                return None
        if targets is None or targets[0].shape != values[0].shape:
            return None
        best = [
            ((target - value).reshape(call.out.shape), float(target.square().mean()))
            for target, value, call in zip(targets, values, seen, strict=True)
        ]
        chain: list[fx.Node] = []
        for behind in self._behind(node) if LOOK else ():
            chain.append(behind)
            slope = self._slope(node, chain)
            if slope is None:
                break
            wanted = self._target(behind)
            if wanted is None:
                continue
            results = [self._through(node, chain, values[batch], batch) for batch in range(self.count)]
            if wanted[0].shape != results[0].shape or wanted[0].shape != values[0].shape:
                break
            best = [
                (
                    ((target - result) * slope).reshape(call.out.shape),
                    float(target.square().mean()) * float(slope.square().mean()),
                )
                for target, result, call in zip(wanted, results, seen, strict=True)
            ]
        return best

    def _through(self, node: fx.Node, chain: list[fx.Node], value: Tensor, batch: int) -> Any:
        """Compute the nodes of a chain from another value of its first node."""
        return self.narrow.through(node, chain, value.clone(), batch)

    def _slope(self, node: fx.Node, chain: list[fx.Node]) -> Tensor | None:
        """Return 1 / the slope of a chain's result, per channel; None if it is no constant."""
        if not self.narrow.has(chain[-1], but={node, *chain}):
            return None
        value = self.narrow.value(node, 0)
        low, high = (self._through(node, chain, value + step, 0) for step in (0.0, 1.0))
        if not isinstance(low, Tensor) or low.shape != value.shape:
            return None
        factor = high - low
        others = [d for d in range(factor.dim()) if d != self._channel_dim(node)]
        mean = factor.mean(others, keepdim=True)
        scale = low.abs().max() + 1.0
        if not bool(((factor - mean).abs() <= 1e-5 * scale).all()):
            return None
        return torch.where(mean.abs() > 1e-4 * mean.abs().max(), 1.0 / mean, 0.0)

    def _channel_dim(self, node: fx.Node) -> int:
        shape = self.plan.coupling.nodes[node.meta[WIDE]].value
        dims = [dim for dim, codes in enumerate(shape.axes) if codes is not None]
        return dims[0] if dims else 1


LOOK = True


def _same_memory(value: Tensor, out: Tensor) -> bool:
    return value.data_ptr() == out.data_ptr() and value.numel() == out.numel()
