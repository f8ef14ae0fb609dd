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

from .computed_weights import Folded, fold
from .grouping import Conclusion, conclude
from .interpreter import buffers_with_channels, run_labelled

# Ways to bundle that are tried after the first got stuck; a split into n axes has n of them.
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
            them. Without it that is done only where the channels within get stuck.
        ways: ways of capture to try, of :data:`fxprune.capture.WAYS`. A plan applies to another instance of the model
            only if all of them are tried.
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
    inputs = as_inputs(example_inputs)
    failures: list[CaptureError] = []
    try:
        for captured in captures(model, inputs, ways=ways, check=check):
            try:
                return _couple(Folded(captured, {}), model, inputs, whole)
            except CaptureError as error:  # what one graph cannot show the analysis, the next one may
                failures.append(error)
    except CaptureError as error:
        failures.append(error)
    raise failures[0]


def _couple(captured: Folded, model: nn.Module, inputs: Inputs, whole: bool) -> Coupling:
    first = _analyse(captured, model, inputs, whole)
    if not first.weighers:
        return first.coupling
    folded = _fold(captured, first, model, inputs, whole)
    if not folded.functions:
        return first.coupling
    return min(first, _analyse(folded, model, inputs, whole), key=_left).coupling


def _fold(captured: Folded, found: Conclusion, model: nn.Module, inputs: Inputs, whole: bool) -> Folded:
    """Fold computed weights; layers that compute theirs inside are traced into for that."""
    nodes = {node.name: node for node in captured.graph_module.graph.nodes}
    layers = frozenset(str(nodes[name].target) for name in found.weighers if nodes[name].op == "call_module")
    if layers:
        check = not captured.graph_module.meta.get(UNCHECKED)
        try:
            captured = Folded(capture(model, inputs, opened=layers, ways=("plain", "values"), check=check), {})
        except CaptureError:  # they stay whole, and their columns frozen
            return captured
        found = _analyse_once(captured, model, inputs, whole, {})
    return fold(captured.graph_module, found.weighers, found.values)


def _analyse(folded: Folded, model: nn.Module, inputs: Inputs, whole: bool) -> Conclusion:
    """Analyse, and again with other ways to bundle where channels got stuck."""
    best = latest = _analyse_once(folded, model, inputs, whole, {})
    choices: dict[str, int] = {}
    for _ in range(_MOST_RETRIES):
        if not latest.stuck:
            break
        choices |= latest.stuck
        latest = _analyse_once(folded, model, inputs, whole, choices)
        best = min(best, latest, key=_left)
    if latest.jammed and not whole:
        # Whole heads here ask for whole heads there: queries, keys and values from three layers.
        best = min(best, _analyse_once(folded, model, inputs, whole, {}, first=True), key=_left)
    return best


def _analyse_once(
    folded: Folded,
    model: nn.Module,
    inputs: Inputs,
    whole: bool,
    choices: Mapping[str, int],
    first: bool | None = None,
) -> Conclusion:
    """One walk; ``first``: begin with whole heads, where that is not what the user asked for."""
    meta_inputs = as_meta(inputs)
    carriers = buffers_with_channels(model)
    walk, values = run_labelled(folded, meta_inputs, choices, whole if first is None else first, carriers)
    return conclude(walk, values, folded, meta_inputs, model, whole=whole)


def _left(conclusion: Conclusion) -> float:
    return round(conclusion.coupling.share_halved, 6)
