"""Find the batch sizes for which a network holds: guards may bind it to its example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import fx

from fxprune.arguments.batch_guards import Numbers, cuts_of_batch, turning_points
from fxprune.arguments.batch_values import MOST, tensor_cut
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
        """Tell whether only the batch size of the example is known to hold."""
        return self.most == self.least

    def holds(self, batch: int) -> bool:
        """Tell whether a batch size is in the range."""
        return self.known and batch >= self.least and (self.most is None or batch <= self.most)

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        if self.fixed:
            return f"{self.least} only"
        if self.most is not None:
            return f"{self.least} to {self.most}"
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

    A guard that turns at a larger batch than the example's bounds the range there. The graph is bound to the batch of
    its example where a guard turns at a smaller one, or may turn where nothing tells, and where it does not run on the
    meta device. Nothing is known where inputs share no batch size.
    """
    samples = {len(x) for x in tensors_of(inputs) if x.dim()}
    run = partial(_run, module, to_meta(module), inputs)
    if len(samples) != 1:
        return BatchRange(why="the inputs share no size along axis 0", known=False)
    (example,) = samples
    given = example
    try:
        run(example)
    except Exception as error:  # what runs at no size says nothing of the batch
        return BatchRange(example, example, f"the graph does not run without numbers: {first_line(error)}")
    # Where a size is a literal of the graph, another batch fails in an operation.
    bound = batch_range(run, given, refusals=(Exception,))
    if bound.fixed and given > 2 and not _refusal(run, given - 1, (Exception,)):  # the example is the largest one
        given -= 1
        bound = batch_range(run, given, refusals=(Exception,))
    if bound.fixed:
        return BatchRange(example, example, bound.why)
    if not module.graph.find_nodes(op="call_function", target=guard_equal):
        return bound
    most = _MOST
    while True:
        # All of these are in the range; the first and the last one show what slices and tables leave as it is.
        try:
            numbers, sizes = _probed(run, (given, given + 1, min(most, _MANY), min(max(bound.least, 2), given)))
        except Exception as error:
            return BatchRange(example, example, first_line(error))
        turns = turning_points(module.graph, numbers, sizes, given, most)
        if turns.unknown is not None:
            return BatchRange(example, example, f"captured where {turns.unknown.args[2]} was {turns.unknown.args[1]}")
        if not turns.last:
            break
        if turns.last > given + 1:
            most = turns.last  # beyond it, numbers may be others than if no guard had failed
        elif given > 2 and not _refusal(run, given - 1, (Exception,)):
            given -= 1
        else:  # all of these ran
            least = bound.least if given <= 2 else given
            return BatchRange(least, turns.last, _refusal(run, turns.last + 1, (Exception,)))
    return _tried(partial(_refusal, run, refusals=(Exception,)), bound, turns.points, (example, given, most))


def leave_whole(module: fx.GraphModule, inputs: Inputs, bound: BatchRange) -> bool:
    """Take out the calls of a graph that cut its batch into one piece at all sizes of a range.

    Returns:
        Whether no other call cuts the batch.
    """
    given = next(len(x) for x in tensors_of(inputs) if x.dim())
    if bound.most is None or bound.fixed:
        return True
    given = max(bound.least, min(given, bound.most - 2))
    numbers, sizes = _probed(partial(_run, module, to_meta(module), inputs), (given, given + 1, bound.most))
    found = cuts_of_batch(module.graph, numbers, sizes, bound.least)
    for call in [call for call, uncut in found.items() if uncut]:
        with module.graph.inserting_before(call):
            call.replace_all_uses_with(module.graph.call_function(tuple, ([tensor_cut(call)],)))
        module.graph.erase_node(call)
    module.recompile()
    return all(found.values())


def _run(
    module: fx.GraphModule, root: torch.nn.Module, inputs: Inputs, batch: int, kind: type[OnMeta] = OnMeta
) -> OnMeta:
    """Run a graph on the meta device at a batch size."""
    given = pytree.tree_map_only(
        torch.Tensor, lambda x: x.new_empty((batch, *x.shape[1:]) if x.dim() else (), device="meta"), inputs
    )
    interpreter = kind(root, module.graph, device_of(module))
    with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
        interpreter.run(*in_order(module.graph, given))
    return interpreter


def _probed(run: Callable[..., OnMeta], batches: Sequence[int]) -> tuple[Numbers, Numbers]:
    """Return the numbers of a graph and the sizes of its tensors in runs without guards."""
    runs = {batch: cast(_Unguarded, run(batch, _Unguarded)) for batch in batches}
    return {b: each.numbers for b, each in runs.items()}, {b: each.sizes for b, each in runs.items()}


def _tried(
    refusal: Callable[[int], str], bound: BatchRange, points: set[int], runs: tuple[int, int, int]
) -> BatchRange:
    """Bound a range by runs around the places where guards turn.

    ``runs`` are the batch sizes of the example and of the least and the largest run that are looked at.
    """
    example, given, most = runs
    ends, end = ({_MANY}, _FARTHEST) if most == _MOST else ({most, most + 1}, most)
    last = given + 1
    for batch in sorted({*ends, *(point for point in points if bound.holds(point) and point <= end)}):
        if why := refusal(batch):
            if batch <= last:
                return BatchRange(example, example, why)
            return BatchRange(bound.least, last, ", and ".join(dict.fromkeys(filter(None, (bound.why, why)))))
        last = max(last, batch)
    return bound


# A batch size that is larger than slices and tables: a prime, which nothing divides.
_MANY = 10007
# The largest ones at which guards are looked at: those of numbers that grow unevenly, and those of all others.
_MOST, _FARTHEST = MOST, 2**31


class _Unguarded(OnMeta):
    """Runs a graph without its guards, and keeps its numbers and the sizes of its tensors."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.numbers: dict[fx.Node, Any] = {}
        self.sizes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, unless it is a guard."""
        if n.target in (guard_equal, guard_dtype, guard_tensor):
            return None
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.sizes[n] = tuple(value.shape)
        if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
            self.numbers[n] = value
        return value
