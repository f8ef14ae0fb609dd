"""The batch sizes for which a network holds: guards may bind it to those of its example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.errors import first_line

from .guards import SpecialisedError
from .inputs import Inputs, in_order, tensors_of
from .modules import MetaMode, device_of, to_meta, unlike_meta
from .torch_private import pytree


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes for which a network holds; prints as words.

    Attributes:
        least: the smallest one.
        most: the largest one; None: there is no bound.
        why: the decision that binds it; empty: nothing does.
    """

    least: int = 1
    most: int | None = None
    why: str = ""

    @property
    def fixed(self) -> bool:
        """Whether only the batch size of the example is known to hold."""
        return self.most is not None

    def holds(self, batch: int) -> bool:
        """Tell whether a batch size is in the range."""
        return batch >= self.least and (self.most is None or batch <= self.most)

    def __str__(self) -> str:
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

    def refusal(batch: int) -> str:
        try:
            run(batch)
        except refusals as error:
            return first_line(error).partition(", run where")[0]
        return ""

    if why := refusal(given + 1):
        return BatchRange(given, given, why)
    if given == 1 or not (why := refusal(1)):
        return ANY_BATCH
    return BatchRange(given if given > 2 and refusal(2) else 2, None, why)


def graph_batches(module: fx.GraphModule, inputs: Inputs) -> BatchRange:
    """Find the batch sizes that a captured graph takes, by runs on the meta device.

    Nothing is said of a graph whose inputs share no batch size, or that does not run there on its own example.
    """
    samples = {len(x) for x in tensors_of(inputs) if x.dim()}
    interpreter = OnMeta(to_meta(module), module.graph, device_of(module))

    def run(batch: int) -> None:
        given = pytree.tree_map_only(
            torch.Tensor, lambda x: x.new_empty((batch, *x.shape[1:]) if x.dim() else (), device="meta"), inputs
        )
        with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
            interpreter.run(*in_order(module.graph, given))

    if len(samples) != 1:
        return ANY_BATCH
    (given,) = samples
    try:
        run(given)
    except Exception:  # what runs at no size says nothing of the batch
        return ANY_BATCH
    # Where a size is a literal of the graph, another batch fails in an operation.
    return batch_range(run, given, refusals=(Exception,))


class OnMeta(fx.Interpreter):
    """Runs a graph on the meta device as if it were on another one."""

    def __init__(self, root: torch.nn.Module, graph: fx.Graph, device: torch.device) -> None:
        super().__init__(root, graph=graph)
        self.extra_traceback, self.device = False, device

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; what asks for the device is told of the graph's own."""
        told = unlike_meta(n, self.device)
        return super().run_node(n) if told is None else told[0]
