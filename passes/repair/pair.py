"""Run a wide and a narrow graph side by side, and tell what a narrow layer's output lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxprune.arguments.inputs import inputs_for
from fxprune.common.progress import steps
from fxprune.node_facts import Shape
from fxprune.passes.calibration import Calibration, Contraction, Execution, Observer, Shares, merge_value
from fxprune.passes.rewrite import WIDE
from fxprune.plans import Plan
from fxprune.pytorch.modules import device_of, named_tensors
from fxprune.pytorch.torch_private import pytree, storage_id, versions_of

# Calls behind a layer that are looked through: a normalisation, a scale, a dropped path, an addition.
_BEHIND = 4


@dataclass(frozen=True, eq=False)
class Missing:
    """The difference that the output of a call lacks, made batch by batch to save memory.

    Attributes:
        calls: the operation as it was computed, by batch; as all that follow.
        values: what the call returned.
        targets: what it, or what follows it, should return.
        through: what follows it returns; None: nothing follows.
        slope: 1 / the slope of what follows, per channel.
    """

    calls: list[Contraction]
    values: list[Tensor]
    targets: list[Tensor]
    through: Callable[[int], Tensor] | None = None
    slope: Tensor | None = None

    def of(self, batch: int) -> tuple[Tensor, float]:
        """Return what lacks, of the shape of the operation's result, and the target's mean square."""
        value, target = self.values[batch], self.targets[batch]
        if self.through is None or self.slope is None:
            short = target - value
        else:
            short = (target - self.through(batch)) * self.slope
            target = target * self.slope
        return _laid_out(short, value, self.calls[batch].out), float(target.square().mean())


class Pair:
    """Both executions, and outputs of the wide one that the narrow one has not reached yet.

    Attributes:
        storages: storage of a narrow tensor -> its name.
        uses: address of a narrow weight -> the forms in which operations use it, one for each.
        fitted: the first so many batches are to estimate from, the others are held back.
        count: of batches.
    """

    def __init__(
        self, wide: fx.GraphModule, narrow: fx.GraphModule, plan: Plan, inputs: Calibration, shares: Shares | None
    ) -> None:
        device = device_of(narrow)
        batches = [
            inputs_for(narrow, pytree.tree_map_only(Tensor, lambda x: x.to(device), batch))
            for batch in (*inputs.batches, *inputs.held)
        ]
        self.fitted, self.count = len(inputs.batches), len(batches)
        self.storages = {storage_id(tensor): name for name, tensor in named_tensors(narrow)}
        self._tensors = [tensor for _, tensor in named_tensors(narrow)]
        self._versions, self._calls = versions_of(self._tensors), list[Contraction]()
        self.uses: dict[int, list[tuple[int, ...]]] = {}
        self._plan, self._shares = plan, shares
        self._wide, self._narrow = Execution(wide, batches), Execution(narrow, batches)
        self._generator = torch.Generator().manual_seed(0)
        self._pending = iter(self._wide.nodes)
        self._wanted: set[str] = set()
        self._passed: set[str] = set()
        self._targets: dict[str, list[Tensor]] = {}
        self._survey(Execution(narrow, batches[:1]))

    def _survey(self, execution: Execution) -> None:
        """Note the operations that are linear in each weight, and which wide outputs will be wanted."""
        for node in execution.nodes:
            observer = Observer(self.storages)
            execution.compute(node, 0, observer if node.op.startswith("call") else None)
            execution.free(node)
            seen = observer.seen
            for address in observer.elsewhere:
                self.uses.setdefault(address, []).append(())
            for found in seen:
                form = (found.features, *found.weight.shape, *found.weight.stride())
                self.uses.setdefault(found.weight.data_ptr(), []).append(form)
            if seen:
                self._wanted |= {each.meta[WIDE] for each in (node, *_behind(node)) if WIDE in each.meta}

    def layers(self) -> Iterator[fx.Node]:
        """Run the narrow graph, and yield each call that is linear in one weight.

        Its weight may be changed then; the call is computed again before the next one.
        """
        for node in steps(self._narrow.nodes, "repair at operation"):
            seen = [self._observed(self._narrow, node, batch) for batch in range(self.count)]
            if WIDE in node.meta and all(len(each) == 1 for each in seen):
                self._calls = [call for (call,) in seen]
                yield node
                self._compute_again(node)
            self._calls = []
            self._narrow.free(node)
            self._wanted.discard(node.meta.get(WIDE, ""))  # also if the wide graph has not reached it yet
            self._targets.pop(node.meta.get(WIDE, ""), None)

    def _compute_again(self, node: fx.Node) -> None:
        """Compute a call again if its weight or bias was changed."""
        if versions_of(self._tensors) != self._versions:
            for batch in range(self.count):
                (self._calls[batch],) = self._observed(self._narrow, node, batch)
            self._versions = versions_of(self._tensors)

    def _observed(self, execution: Execution, node: fx.Node, batch: int) -> list[Contraction]:
        if not node.op.startswith("call"):
            execution.compute(node, batch)
            return []
        observer = Observer(self.storages)
        execution.compute(node, batch, observer)
        return observer.seen

    def missing(self, node: fx.Node) -> Missing | None:
        """Return the operation of a call, and what its output lacks, one batch after another.

        Where only additions and factors of channels follow, it is what their result lacks: the layer then makes up for
        what the other addends lack. None if the call returns something else than the operation does.
        """
        self._compute_again(node)
        values = [self._narrow.value(node, batch) for batch in range(self.count)]
        targets = self._target(node)
        alike = all(
            isinstance(value, Tensor) and value.data_ptr() == call.out.data_ptr() and value.numel() == call.out.numel()
            for value, call in zip(values, self._calls, strict=True)
        )
        if not alike or targets is None or targets[0].shape != values[0].shape:
            return None
        missing = Missing(self._calls, values, targets)
        chain: list[fx.Node] = []
        for behind in _behind(node):
            chain.append(behind)
            slope = self._slope(node, chain)
            if slope is None:
                break
            wanted = self._target(behind)
            if wanted is None:
                continue
            through = functools.partial(self._through, node, (*chain,))
            if wanted[0].shape != through(0).shape:
                break
            missing = Missing(self._calls, values, wanted, through, slope)
        return missing

    def _through(self, node: fx.Node, chain: tuple[fx.Node, ...], batch: int) -> Tensor:
        result: Tensor = self._narrow.through(node, chain, self._narrow.value(node, batch).clone(), batch)
        return result

    def _target(self, node: fx.Node) -> list[Tensor] | None:
        """Run the wide graph up to the node that a narrow one replaces; return its merged values."""
        name = node.meta.get(WIDE, "")
        while name in self._wanted and name not in self._passed:
            wide = next(self._pending, None)
            if wide is None:
                break
            self._passed.add(wide.name)
            values = [self._wide.compute(wide, batch) for batch in range(self.count)]
            facts = self._plan.coupling.nodes.get(wide.name)
            shape = facts.value if facts is not None else None
            if wide.name in self._wanted and isinstance(shape, Shape) and all(shape.fits(value) for value in values):
                # Copies: a later operation may write to the value in place.
                self._targets[wide.name] = [
                    merge_value(value, shape, self._plan, self._shares).clone() for value in values
                ]
            self._wide.free(wide)
        return self._targets.get(name)

    def _slope(self, node: fx.Node, chain: list[fx.Node]) -> Tensor | None:
        """Return 1 / the slope of a chain's result, per channel; None if it is no constant."""
        if not self._narrow.has(chain[-1], but={node, *chain}):
            return None
        value = self._narrow.value(node, 0)
        # Unlike at each position: a normalisation or a softmax ignores what all positions have in common.
        step = torch.empty_like(value).copy_(torch.randn(value.shape, generator=self._generator))
        low, high = (self._narrow.through(node, chain, value + size * step, 0) for size in (0.0, 1.0))
        if not isinstance(low, Tensor) or not low.is_floating_point() or low.shape != value.shape:
            return None
        dim = self._channel_dim(node)
        others = [d for d in range(value.dim()) if d != dim]
        change = high - low
        slope = (change * step).sum(others, keepdim=True) / step.square().sum(others, keepdim=True)
        # Differences of numbers of this size are off by some 1e-7 of it.
        rounding = 1e-5 * (low.abs().max() + 1e-3 * change.abs().max())
        if not bool(((change - slope * step).abs() <= rounding).all()) or not bool(slope.abs().max() > 10 * rounding):
            return None
        # Channels that hardly count behind would ask for huge changes here.
        return torch.where(slope.abs() > 1e-3 * slope.abs().max(), 1.0 / slope, 0.0)

    def _channel_dim(self, node: fx.Node) -> int:
        shape = self._plan.coupling.nodes[node.meta[WIDE]].value
        dims = [dim for dim, codes in enumerate(shape.axes) if codes is not None]
        return dims[0] if dims else 1


def _behind(node: fx.Node) -> list[fx.Node]:
    """List the calls that alone read a node, one after another."""
    chain: list[fx.Node] = []
    while len(node.users) == 1 and len(chain) < _BEHIND:
        (node,) = node.users
        if node.op == "output":
            break
        chain.append(node)
    return chain


def _laid_out(short: Tensor, value: Tensor, out: Tensor) -> Tensor:
    """Return numbers that belong to a view of ``out``, in the shape of ``out``."""
    placed = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)
    return placed.copy_(short).as_strided(out.size(), out.stride())
