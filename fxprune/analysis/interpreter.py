"""Label every tensor of a network with its channels, in one run on the meta device.

The run needs no data, weights or gradients: each ATen operation of the captured graph goes to its rule.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, in_order
from fxprune.arguments.misfits import unfit
from fxprune.errors import CaptureError, FxpruneError, asks_values, first_line
from fxprune.pytorch.call_targets import (
    calls_function,
    is_foreign,
    is_opaque,
    is_rewritable,
    reads_widths,
    runs_own_code,
)
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.meta import filled, stays, value_of
from fxprune.pytorch.modules import device_of, to_meta, unlike_meta
from fxprune.pytorch.source import source_of
from fxprune.pytorch.torch_private import no_dispatch, pytree, storage_id, versions_of

from .call import called
from .channels import Ids
from .computed_weights import CapturedGraph
from .labels import Label, tensors_in
from .lengths import freeze_cuts, is_broadcast, settle_lengths
from .marks import Choices, Event
from .rule_mode import RuleMode
from .state import AnalysisState
from .tensor_classes import check_result, check_stored
from .trial import Steps, known_from, not_adapting, recorded
from .watched_layers import watch_layers


def run_labelled(
    captured: CapturedGraph,
    inputs: Inputs,
    choices: Choices,
    carriers: Mapping[str, bool],
    two_roles: Set[tuple[str, int]] = frozenset(),
    trials: dict[Any, bool] | None = None,
) -> tuple[AnalysisState, dict[str, Any]]:
    """Run a captured graph on the meta device; return the state and the result of each node.

    Args:
        captured: the graph, and the functions that compute its weights.
        inputs: on the meta device.
        choices: the ways to bundle.
        carriers: names of buffers that have channels like a parameter, and whether they are tables.
        two_roles: axes of parameters, by name and number, that are rows of one weight and columns of another.
        trials: outcomes of trials of calls, which other runs share.

    Raises:
        CaptureError: the graph does not run on these inputs.
    """
    graph_module = captured.graph_module
    for each in (graph_module, *captured.functions.values()):
        check_stored(each)
    state = AnalysisState(choices, two_roles, {} if trials is None else trials)

    def introduce(name: str, tensor: torch.Tensor, is_parameter: bool) -> None:
        table, constant = carriers.get(name, False), name in carriers
        state.origins.introduce(name, tensor, is_parameter or constant, constant=constant, table=table)

    for name, function in captured.functions.items():
        # The narrow network only has the result, so the function stays as it is.
        root, state.rewritable = to_meta(function, introduce), True
        with torch.no_grad(), RuleMode(state):
            state.origins.compute(name, root())
    root = to_meta(graph_module, introduce)
    watch_layers(root, state)
    interpreter = _Interpreter(root, graph_module.graph, state, device_of(graph_module))
    try:
        with torch.no_grad(), RuleMode(state):
            interpreter.run(*in_order(graph_module.graph, inputs))
    except FxpruneError:
        raise
    except Exception as error:
        name, node = type(graph_module).__name__, state.marks.node
        if isinstance(error, NotImplementedError) or asks_values(error):  # whatever the inputs are
            said = "the values of a tensor are asked for" if asks_values(error) else first_line(error).rstrip(".")
            where = f"node `{node}`" + (f" ({source_of(node)})" if node is not None else "")
            raise CaptureError(
                f"{name} cannot be analysed at {where}: {said}. Couple the part of the network before it, or name the "
                "outputs that count if others ask for them."
            ) from error
        raise CaptureError(f"{name} {unfit(graph_module, inputs, error, at=f' at node `{node}`')}") from error
    for node in graph_module.graph.output_node().all_input_nodes:
        state.marks.node = node  # whose line of the model is reported
        for label in map(state.labels.of, tensors_in(interpreter.env[node])):
            state.marks.freeze("graph output", *label.axes, *label.uniform)
    state.marks.node = None
    for table, at, ids in state.notes.tables:
        if not stays(table) or (table.dim() == 0 and versions_of([table]) != [0]):
            state.marks.frozen.append(Event(ids, "an index that the network changes", at))
    state.origins.settle(state.marks)
    return state, interpreter.values


_KNOWS_ITS_WIDTH = "enters or leaves `{}`, which is kept whole and knows its own width"


class _Interpreter(OnMeta):
    """Runs the graph and records what each node returned, with tensors as (sizes, label)."""

    def __init__(self, root: nn.Module, graph: fx.Graph, state: AnalysisState, device: torch.device) -> None:
        super().__init__(root, graph, device, garbage_collect_values=False)
        self.state = state
        self.values: dict[str, Any] = {}
        self._stored = dict(graph.owning_module.named_buffers()) if graph.owning_module is not None else {}

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Return the arguments of a node, with the places that stored tensors of one number name."""
        return filled(n, self.env.__getitem__, lambda each, tensor: self._place(n, each, tensor))

    def _place(self, n: fx.Node, index: fx.Node, tensor: torch.Tensor) -> int:
        """Return the place that a stored tensor names; note a call by a computed one."""
        with no_dispatch():
            stored = self._stored.get(str(index.target)) if index.op == "get_attr" else value_of(tensor)
            place = None if stored is None or stored.is_meta else int(stored)
        if place is None or (index.op == "get_attr" and versions_of([tensor]) != [0]):
            self.state.lengths.by_values.add(n)
            return 0
        self.state.notes.places[index.name] = np.array([place])
        given = self.env[n.args[0]] if isinstance(n.args[0], fx.Node) else None
        axes = self.state.labels.of(given).axes if isinstance(given, torch.Tensor) else ()
        self.state.notes.tables += [(tensor, n, ids) for ids in axes if ids is not None]
        return place

    def run_node(self, n: fx.Node) -> Any:
        self.state.marks.node = n
        self.state.rewritable = is_rewritable(n)
        known = unlike_meta(n, self.device)
        if known is not None:
            self.values[n.name] = known[0]
            return known[0]
        foreign, own_code = is_foreign(n, self.submodules), runs_own_code(n)
        noted = foreign or own_code or calls_function(n) or (n.op == "call_method" and not self.state.rewritable)
        noting: contextlib.AbstractContextManager[Steps] = recorded() if noted else contextlib.nullcontext([])
        with noting as steps:
            value = super().run_node(n)
        check_result(n, value, self._labels_for(n))
        if is_broadcast(n):  # all meet, whether or not they are read
            functools.reduce(torch.add, value)
        self.state.freeze_views(self.env)
        settle_lengths(n, value, self.env, self.state.channels, self.state.labels)
        self.state.lengths.note(n, value, self.env, self.state.labels)
        freeze_cuts(self.state.lengths, n, value, self.env, self.state.labels, self.state.marks)
        if is_opaque(n, self.submodules):
            self._freeze_around(n, value)
        elif foreign or own_code:
            fixed = self._not_adapting(n, value, steps)
            self.state.marks.freeze(_KNOWS_ITS_WIDTH.format(called(n)), fixed)
            if fixed is None or foreign:
                self._freeze_around(n, value, waiting=fixed is not None)
        elif reads_widths(n, value):
            fixed = self._not_adapting(n, value, steps) if calls_function(n) else None
            if fixed is None or len(fixed):
                self._freeze_memory_of(tensors_in(self.fetch_args_kwargs_from_env(n)))
        self._freeze_sizes(n, value, steps)
        if isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8):
            self.state.notes.masks.add(n.name)
        self.values[n.name] = pytree.tree_map_only(
            torch.Tensor, lambda tensor: (tensor.shape, self.state.labels.of(tensor)), value
        )
        return value

    def _labels_for(self, n: fx.Node) -> Iterator[Label]:
        """Label what a node reads: its arguments, and the parameters of its layer."""
        own = self.submodules[str(n.target)].parameters() if n.op == "call_module" else ()
        yield from map(self.state.origins.label, (*tensors_in(self.fetch_args_kwargs_from_env(n)), *own))

    def _not_adapting(self, n: fx.Node, value: Any, steps: Steps) -> Ids | None:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        call: Any = self.submodules[str(n.target)] if n.op == "call_module" else n.target
        call = getattr(torch.Tensor, call) if n.op == "call_method" else call
        layer = str(n.target) if n.op == "call_module" and is_shaped(call) else ""
        self.state.layers.paused = True
        try:
            owner = n.graph.owning_module if n.op == "call_module" else None
            original = None if owner is None else owner.get_submodule(str(n.target))
            return not_adapting(self.state, call, (args, kwargs), (value, steps), layer, original)
        finally:
            self.state.layers.paused = False

    def _freeze_sizes(self, n: fx.Node, value: Any, steps: Steps) -> None:
        """Freeze the axes that a call made in a size that does not follow from what it reads."""
        made, self.state.marks.sized = self.state.marks.sized, []
        if made and steps and known_from(self.state, tensors_in(self.fetch_args_kwargs_from_env(n)), made):
            fixed = self._not_adapting(n, value, steps)
            made = made if fixed is None or len(fixed) else []
        self.state.marks.frozen += made

    def _freeze_memory_of(self, tensors: list[torch.Tensor]) -> None:
        """Freeze tensors and all that share their memory, since a call reads how that is laid out."""
        read = set(map(storage_id, tensors))
        for tensor in tensors_in(list(self.env.values())):
            if storage_id(tensor) in read:
                label = self.state.labels.of(tensor)
                self.state.marks.freeze("strides or offsets in memory are read", *label.axes, *label.uniform)

    def _freeze_around(self, n: fx.Node, value: Any, *, waiting: bool = False) -> None:
        """Freeze what enters and leaves a call that knows its width, or of it only ids that wait."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        own = list(self.submodules[str(n.target)].parameters()) if n.op == "call_module" else []
        for tensor in (*tensors_in((args, kwargs, value)), *own):
            label, why = self.state.origins.label(tensor), _KNOWS_ITS_WIDTH.format(called(n))
            self.state.marks.freeze(why, *(() if waiting else label.axes), *label.uniform)
