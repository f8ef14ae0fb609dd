"""The batch sizes for which a network holds: guards may bind it to those of its example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from fxprune.arguments.batch_guards import turning_points
from fxprune.arguments.guards import SpecialisedError, guard_dtype, guard_equal, guard_tensor
from fxprune.arguments.inputs import Inputs, in_order, tensors_of
from fxprune.errors import first_line
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, device_of, to_meta
from fxprune.pytorch.torch_private import pytree


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes for which a network holds; prints as words.

    Attributes:
        least: the smallest one.
        most: the largest one; None: there is no bound.
        why: the decision that binds it; empty: nothing does.
        known: whether anything is known of it.
    """

    least: int = 1
    most: int | None = None
    why: str = ""
    known: bool = True

    @property
    def fixed(self) -> bool:
        """Whether only the batch size of the example is known to hold."""
        return self.most is not None

    def holds(self, batch: int) -> bool:
        """Tell whether a batch size is in the range."""
        return self.known and batch >= self.least and (self.most is None or batch <= self.most)

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        if self.fixed:
            return f"{self.least} only"
        return "any" if self.least == 1 else f"{self.least} or more"


ANY_BATCH = BatchRange()


def admitted(batches: Sequence[int], bound: BatchRange) -> list[int]:
    """Return the batch sizes that a network takes; its smallest one if it takes none of them."""
    return [batch for batch in batches if bound.holds(batch)] or [bound.least]


def batch_range(
    run: Callable[[int], object], given: int, *, refusals: tuple[type[Exception], ...] = (SpecialisedError,)
) -> BatchRange:
    """Find the batch sizes that a network takes, by runs at 1, 2 and one more than ``given``.

    Args:
        run: runs the network at a batch size.
        given: the batch size of its example, which it takes.
        refusals: exceptions by which it refuses a batch size.
    """
    if why := _refusal(run, given + 1, refusals):
        return BatchRange(given, given, why)
    if given == 1 or not (why := _refusal(run, 1, refusals)):
        return ANY_BATCH
    return BatchRange(given if given > 2 and _refusal(run, 2, refusals) else 2, None, why)


def _refusal(run: Callable[[int], object], batch: int, refusals: tuple[type[Exception], ...]) -> str:
    """Return why a network refuses a batch size; empty: it does not."""
    try:
        run(batch)
    except refusals as error:
        return first_line(error).partition(", run where")[0]
    return ""


def graph_batches(module: fx.GraphModule, inputs: Inputs) -> BatchRange:
    """Find the batch sizes that a captured graph takes, by runs on the meta device.

    The graph is bound to the batch of its example where a guard turns at a batch size in the range, or may turn where
    nothing tells, and where it does not run on the meta device. Nothing is known where inputs share no batch size.
    """
    samples = {len(x) for x in tensors_of(inputs) if x.dim()}
    root, device = to_meta(module), device_of(module)

    def run(batch: int, kind: type[OnMeta] = OnMeta) -> OnMeta:
        given = pytree.tree_map_only(
            torch.Tensor, lambda x: x.new_empty((batch, *x.shape[1:]) if x.dim() else (), device="meta"), inputs
        )
        interpreter = kind(root, module.graph, device)
        with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
            interpreter.run(*in_order(module.graph, given))
        return interpreter

    if len(samples) != 1:
        return BatchRange(why="the inputs share no size along axis 0", known=False)
    (given,) = samples
    try:
        run(given)
    except Exception as error:  # what runs at no size says nothing of the batch
        return BatchRange(given, given, f"the graph does not run without numbers: {first_line(error)}")
    # Where a size is a literal of the graph, another batch fails in an operation.
    bound = batch_range(run, given, refusals=(Exception,))
    if bound.fixed or not module.graph.find_nodes(op="call_function", target=guard_equal):
        return bound
    # All of these are in the range; the last one is beyond what slices and tables leave as it is.
    probes = (given, given + 1, _MANY)
    try:
        numbers = {batch: cast(_Unguarded, run(batch, _Unguarded)).numbers for batch in probes}
    except Exception as error:
        return BatchRange(given, given, first_line(error))
    points, unknown = turning_points(module.graph, numbers)
    if unknown is not None:
        return BatchRange(given, given, f"captured where {unknown.args[2]} was {unknown.args[1]}")
    for batch in sorted({_MANY, *(point for point in points if bound.holds(point))}):
        if why := _refusal(run, batch, (Exception,)):
            return BatchRange(given, given, why)
    return bound


# A batch size that is larger than those of any decision: a prime, which nothing divides.
_MANY = 10007


class _Unguarded(OnMeta):
    """Runs a graph without its guards, and keeps its numbers: all values except tensors."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.numbers: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, unless it is a guard."""
        if n.target in (guard_equal, guard_dtype, guard_tensor):
            return None
        value = super().run_node(n)
        if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
            self.numbers[n] = value
        return value
