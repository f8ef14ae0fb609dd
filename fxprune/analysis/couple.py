"""Couple: which channels of a network are one channel, from the ways of capture and of bundling that show the most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fxprune.capture import WAYS, capture, captures
from fxprune.common.inputs import Inputs, as_inputs, as_meta
from fxprune.coupling import Coupling
from fxprune.equivalence import UNCHECKED
from fxprune.errors import CaptureError

from .computed_weights import CapturedGraph, store_computed_weights
from .grouping import Analysis, group_channels
from .interpreter import buffers_with_channels, run_labelled

# Ways to bundle that are tried after the first was blocked; a split into n axes has n of them.
_MOST_RETRIES = 3


def couple(
    model: nn.Module,
    example_inputs: Any,
    *,
    whole: bool = False,
    ways: Sequence[str] = WAYS,
    check: bool = True,
) -> Coupling:
    """Find which channels of a network must live and die together.

    Args:
        model: any module; it is not modified. It is analysed as it computes in eval mode.
        example_inputs: what ``model.forward`` takes: a tensor, a tuple of arguments, or a dict of arguments by name.
            Only shapes and dtypes of tensors matter to the analysis, and tensors on the meta device serve; other
            arguments are constants.
        whole: merge whole heads and whole groups where there is a choice, instead of the channels within each of
            them. Without it that is done only where the channels within are blocked.
        ways: ways of capture to try: ``symbolic``, ``concrete`` and ``export`` (docs/analysis.md). A plan applies to
            another instance of the model only if all of them are tried.
        check: run the model and what was captured of it side by side on the example, some calls each, and refuse a
            model that computes something else (:mod:`fxprune.equivalence`). Weights on the meta device are not run.

    Raises:
        CaptureError: the model cannot be traced, or does not run on these inputs.
        AnalysisError: a rule broke its own promise (a bug in fxprune).

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> coupling = fxprune.couple(net, images)
        >>> list(coupling.groups), round(coupling.share_prunable, 3)  # the last bias leaves the network as it is
        (['0.weight'], 0.992)
    """
    search = _Search(model, as_inputs(example_inputs), whole)
    failures: list[CaptureError] = []
    try:
        for captured in captures(model, search.inputs, ways=ways, check=check):
            try:
                return search.best(CapturedGraph(captured)).coupling
            except CaptureError as error:  # what one graph cannot show the analysis, the next one may
                failures.append(error)
    except CaptureError as error:
        failures.append(error)
    raise failures[0]


class _Search:
    """The analysis of a model that leaves the least when all groups are halved."""

    def __init__(self, model: nn.Module, inputs: Inputs, merge_heads: bool) -> None:
        self.model, self.inputs, self.merge_heads = model, inputs, merge_heads
        self._meta_inputs = as_meta(inputs)

    def best(self, captured: CapturedGraph) -> Analysis:
        """The best of the graph as it was captured, and with its computed weights stored."""
        found = self._with_retries(captured)
        if not found.computed_weight_users:
            return found
        storing = self._store_weights(captured, found)
        return _least(found, self._with_retries(storing)) if storing.functions else found

    def _store_weights(self, captured: CapturedGraph, found: Analysis) -> CapturedGraph:
        """Store computed weights; layers that compute theirs inside are traced into for that."""
        nodes = {node.name: node for node in captured.graph_module.graph.nodes}
        users = [nodes[name] for name in found.computed_weight_users]
        layers = frozenset(str(node.target) for node in users if node.op == "call_module")
        if layers:
            check = not captured.graph_module.meta.get(UNCHECKED)
            try:
                decomposed = capture(
                    self.model, self.inputs, decomposed=layers, ways=("symbolic", "concrete"), check=check
                )
            except CaptureError:  # they stay whole, and their columns frozen
                return captured
            captured = CapturedGraph(decomposed)
            found = self._once(captured, {}, self.merge_heads)
        return store_computed_weights(captured.graph_module, found.computed_weight_users, found.values)

    def _with_retries(self, captured: CapturedGraph) -> Analysis:
        """The best of some ways to bundle where channels are blocked."""
        best = latest = self._once(captured, {}, self.merge_heads)
        choices: dict[str, int] = {}
        for _ in range(_MOST_RETRIES):
            if not latest.blocked:
                break
            choices |= latest.blocked
            latest = self._once(captured, choices, self.merge_heads)
            best = _least(best, latest)
        if latest.exhausted and not self.merge_heads:
            # Whole heads here ask for whole heads there: queries, keys and values from three layers.
            best = _least(best, self._once(captured, {}, True))
        return best

    def _once(self, captured: CapturedGraph, choices: Mapping[str, int], heads_first: bool) -> Analysis:
        """One run; ``heads_first``: begin with whole heads, which may not be what the user asked for."""
        carriers = buffers_with_channels(self.model)
        state, values = run_labelled(captured, self._meta_inputs, choices, int(heads_first), carriers)
        return group_channels(state, values, captured, self._meta_inputs, self.model, merge_heads=self.merge_heads)


def _least(*analyses: Analysis) -> Analysis:
    return min(analyses, key=lambda analysis: analysis.remaining_share)
