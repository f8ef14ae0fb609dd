"""Couple the channels of a network, by the capture and the bundling that merge the most."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxprune.arguments.inputs import Inputs, as_inputs, as_meta, input_names, without_numbers
from fxprune.arguments.outputs import Outputs, as_outputs
from fxprune.capture import WAYS, capture, captures
from fxprune.common.threads import one_thread
from fxprune.coupling import Coupling
from fxprune.equivalence import UNCHECKED, configuration_of, preserved
from fxprune.errors import CaptureError
from fxprune.pytorch.devices import with_data
from fxprune.pytorch.network import network_of
from fxprune.pytorch.torch_private import pytree

from .computed_weights import CapturedGraph, store_computed_weights
from .groups import Analysis, group_channels
from .interpreter import run_labelled
from .marks import Choices
from .origins import buffers_with_channels
from .own_code import Layouts, bounds, layouts
from .state import AnalysisState

# The number of further ways to bundle to try after the first was blocked; a split into n axes has n ways.
_MOST_RETRIES = 3


def couple(
    model: nn.Module,
    example_inputs: Any,
    *,
    whole: bool = False,
    ways: Sequence[str] = WAYS,
    check: bool = True,
    outputs: Sequence[str | int] | str | int | None = None,
) -> Coupling:
    """Find the channels of a network that must merge together.

    Args:
        model: any module, or one inside DataParallel, DistributedDataParallel or torch.compile; it is not modified.
            The analysis describes its eval mode.
        example_inputs: what ``model.forward`` takes: a tensor, a tuple of arguments, or a dict of arguments by name.
            Only shapes and dtypes of tensors matter to the analysis, so they may be on the meta device; other arguments
            are constants.
        whole: merge complete heads and groups if there is a choice, instead of the channels within each of them. By
            default this is done only if the channels within are blocked.
        ways: ways of capture to try: ``symbolic``, ``concrete`` and ``export`` (docs/analysis.md). A plan applies to
            another instance of the model only if all of them are tried.
        check: run the model and its captured graph on the example, some calls each, and reject a model that computes
            something else (:mod:`fxprune.equivalence`). Weights on the meta device are not run.
        outputs: the outputs that count, by name or number, as ``logits``, 0 or ``hidden_states.3``; None: all. No other
            output freezes channels, and the narrow network returns no other: it is None, or absent from a dict.

    Raises:
        OptionError: there is no such output, or no such way.
        ModelError: what was given is no network, or one whose layers cannot become narrower.
        CaptureError: the model cannot be traced, or does not run on these inputs.
        AnalysisError: a rule broke its own promise (a bug in fxprune).

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> coupling = fxprune.couple(net, images)
        >>> list(coupling.groups), round(coupling.share_prunable, 3)  # the last bias leaves the network as it is
        (['0.weight'], 0.992)
    """
    model = network_of(model)
    search = _Search(model, as_inputs(example_inputs), whole, as_outputs(outputs))
    failures: list[CaptureError] = []
    # In inference mode PyTorch does not take functions apart into operators.
    with one_thread(), torch.inference_mode(False), _garbage_kept(), with_data():
        with preserved(model):  # its hooks run in the analysis, too
            found = _first_coupling(search, ways, check, failures)
        if found is not None:
            given = pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone(), search.inputs)
            return replace(found, outputs=search.outputs, given=given, configuration=configuration_of(model))
    raise failures[0]


def _first_coupling(search: _Search, ways: Sequence[str], check: bool, failures: list[CaptureError]) -> Coupling | None:
    """Analyse one captured graph after the other, until one succeeds; add why the others fail."""
    try:
        for captured in captures(search.model, search.inputs, ways=ways, check=check, outputs=search.outputs):
            try:
                return search.bound(search.best(CapturedGraph(captured)))
            except CaptureError as error:  # the next graph may succeed
                failures.append(error)
    except CaptureError as error:
        failures.append(error)
    return None


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Search for no cyclic garbage inside the block.

    Python would visit all objects of all libraries, for a third of the time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


class _Search:
    """A search for the analysis of a model with the fewest weights when all groups are halved."""

    def __init__(self, model: nn.Module, inputs: Inputs, merge_heads: bool, outputs: Outputs | None) -> None:
        self.model, self.inputs, self.merge_heads, self.outputs = model, inputs, merge_heads, outputs
        self.two_roles: frozenset[tuple[str, int]] = frozenset()
        self.trials: dict[Any, bool] = {}
        # Of each analysis: the layouts of own code, and what finds them at other inputs.
        self.runs: dict[Analysis, tuple[Layouts, Callable[[Inputs], Layouts]]] = {}

    def best(self, captured: CapturedGraph) -> Analysis:
        """Return the best analysis: of the captured graph, or with its computed weights stored."""
        found = self._with_retries(captured)
        if found.two_roles:
            self.two_roles = found.two_roles
            found = _least(found, self._with_retries(captured))
        if not found.computed_weight_users:
            return found
        storing = self._store_weights(captured, found)
        return _least(found, self._with_retries(storing)) if storing.functions else found

    def _store_weights(self, captured: CapturedGraph, found: Analysis) -> CapturedGraph:
        """Store computed weights; for this, trace into layers that compute theirs inside."""
        nodes = {node.name: node for node in captured.graph_module.graph.nodes}
        users = [nodes[name] for name in found.computed_weight_users]
        layers = frozenset(str(node.target) for node in users if node.op == "call_module")
        if layers:
            check = not captured.graph_module.meta.get(UNCHECKED)
            try:
                decomposed = capture(
                    self.model,
                    self.inputs,
                    decomposed=layers,
                    ways=("symbolic", "concrete"),
                    check=check,
                    outputs=self.outputs,
                )
            except CaptureError:  # they stay single nodes, and their columns frozen
                return captured
            captured = CapturedGraph(decomposed)
            found = self._once(captured, {}, self.merge_heads)
        return store_computed_weights(captured.graph_module, found.computed_weight_users, found.values)

    def _with_retries(self, captured: CapturedGraph) -> Analysis:
        """Return the best analysis of some ways to bundle the blocked channels."""
        best = latest = self._once(captured, {}, self.merge_heads)
        choices: dict[str, int] = {}
        for _ in range(_MOST_RETRIES):
            if not latest.blocked:
                break
            choices |= latest.blocked
            latest = self._once(captured, choices, self.merge_heads)
            best = _least(best, latest)
        if latest.exhausted and not self.merge_heads:
            # Complete heads in one layer need complete heads in others: queries, keys and values of three layers.
            best = _least(best, self._once(captured, {}, True))
        return best

    def _once(self, captured: CapturedGraph, choices: Mapping[str, int], heads_first: bool) -> Analysis:
        """Run once; ``heads_first``: bundle by complete heads, whatever the user chose."""
        carriers = buffers_with_channels(self.model)
        two_roles = self.two_roles

        def run(inputs: Inputs) -> tuple[AnalysisState, dict[str, Any]]:
            # Fresh inputs for each: a model may change the shape of its own in place.
            ways = Choices(dict(choices), int(heads_first))
            return run_labelled(captured, as_meta(inputs), ways, carriers, two_roles, self.trials)

        state, values = run(self.inputs)
        example = without_numbers(self.inputs)
        found = group_channels(state, values, captured, example, self.model, merge_heads=self.merge_heads)
        self.runs[found] = layouts(state), lambda inputs: layouts(run(inputs)[0])
        return found

    def bound(self, found: Analysis) -> Coupling:
        """Return a coupling that tells to which sizes own code is bound."""
        at_example, run = self.runs[found]
        if not (bound := bounds(at_example, self.inputs, run)):
            return found.coupling
        names = input_names(found.coupling.graph_module.graph, self.inputs)
        axes = {node: frozenset((names[at], dim) for at, dim in each) for node, each in bound.items()}
        nodes = found.coupling.nodes
        bound_nodes = {name: replace(nodes[name], binds=each) for name, each in axes.items()}
        return replace(found.coupling, nodes={**nodes, **bound_nodes})


def _least(*analyses: Analysis) -> Analysis:
    return min(analyses, key=lambda analysis: analysis.remaining_share)
