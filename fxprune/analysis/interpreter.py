"""Label every tensor of a network with its channels, in one run on the meta device.

The run needs no data, weights or gradients: each ATen operation of the captured graph goes to its rule.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Set
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, in_order
from fxprune.arguments.unfit import unfit
from fxprune.errors import AnalysisError, CaptureError, FxpruneError
from fxprune.pytorch.constants import stays
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, device_of, to_meta, unlike_meta
from fxprune.pytorch.rewritable import (
    LINEAR,
    calls_function,
    canonical_call,
    is_foreign,
    is_opaque,
    is_rewritable,
    reads_widths,
    runs_own_code,
)
from fxprune.pytorch.shaped_layers import is_shaped
from fxprune.pytorch.torch_private import fills_given, op_arguments, pytree, storage_id

from .call import Call
from .channels import Axes, Ids
from .computed_weights import CapturedGraph
from .labels import Label, tensors_in
from .lengths import freeze_cuts
from .marks import Choices, Event
from .operation import unlabelled
from .rules import RULES
from .rules.pointwise import pointwise
from .rules.registry import Entry
from .rules.uniform import met
from .state import AnalysisState
from .trial import Steps, known_from, not_adapting, recorded
from .watched_layers import watch_layers


def run_labelled(
    captured: CapturedGraph,
    inputs: Inputs,
    choices: Choices,
    carriers: Set[str],
    two_roles: Set[tuple[str, int]] = frozenset(),
    trials: dict[Any, bool] | None = None,
) -> tuple[AnalysisState, dict[str, Any]]:
    """Run a captured graph on the meta device; return the state and the result of each node.

    Args:
        captured: the graph, and the functions that compute its weights.
        inputs: on the meta device.
        choices: the ways to bundle.
        carriers: names of buffers that have channels like a parameter.
        two_roles: axes of parameters, by name and number, that are rows of one weight and columns of another.
        trials: outcomes of trials of calls, which other runs share.

    Raises:
        CaptureError: the graph does not run on these inputs.
    """
    graph_module = captured.graph_module
    state = AnalysisState(choices, two_roles, {} if trials is None else trials)

    def introduce(name: str, tensor: torch.Tensor, is_parameter: bool) -> None:
        state.origins.introduce(name, tensor, is_parameter or name in carriers, constant=name in carriers)

    for name, function in captured.functions.items():
        # The narrow network only has the result, so the function stays as it is.
        root, state.rewritable = to_meta(function, introduce), True
        with torch.no_grad(), _RuleMode(state):
            state.origins.compute(name, root())
    root = to_meta(graph_module, introduce)
    watch_layers(root, state)
    interpreter = _Interpreter(root, graph_module.graph, state, device_of(graph_module))
    try:
        with torch.no_grad(), _RuleMode(state):
            interpreter.run(*in_order(graph_module.graph, inputs))
    except FxpruneError:
        raise
    except Exception as error:
        by_values = isinstance(error, NotImplementedError)  # whatever the inputs are
        remedy = "Couple a submodule that ends before it" if by_values else "Give example inputs that the model accepts"
        remedy += "; operations on tensor values cannot be analysed"
        why = unfit(graph_module, inputs, error, remedy, at=f" at node `{state.marks.node}`")
        raise CaptureError(f"{type(graph_module).__name__} {why}") from error
    for node in graph_module.graph.output_node().all_input_nodes:
        state.marks.node = node  # whose line of the model is reported
        for label in map(state.labels.of, tensors_in(interpreter.env[node])):
            state.marks.freeze("graph output", *label.axes, *label.uniform)
    state.marks.node = None
    for table, at, ids in state.notes.tables:
        if not stays(table):
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
        self.state.lengths.note(n, value, self.env, self.state.labels)
        freeze_cuts(self.state.lengths, n, self.env, self.state.labels, self.state.marks)
        if is_opaque(n, self.submodules):
            self._freeze_around(n, value)
        elif foreign or own_code:
            fixed = self._not_adapting(n, value, steps)
            self.state.marks.freeze(_KNOWS_ITS_WIDTH.format(n.target), fixed)
            if fixed is None or foreign:
                self._freeze_around(n, value, waiting=fixed is not None)
        elif reads_widths(n, value):
            fixed = self._not_adapting(n, value, steps) if calls_function(n) else None
            if fixed is None or len(fixed):
                self._freeze_memory_of(tensors_in(self.fetch_args_kwargs_from_env(n)))
        self._freeze_sizes(n, value, steps)
        self.values[n.name] = pytree.tree_map_only(
            torch.Tensor, lambda tensor: (tensor.shape, self.state.labels.of(tensor)), value
        )
        return value

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
            label = self.state.origins.label(tensor)
            self.state.marks.freeze(_KNOWS_ITS_WIDTH.format(n.target), *(() if waiting else label.axes), *label.uniform)


class _RuleMode(MetaMode):
    """A mode that passes every ATen operation to its rule."""

    def __init__(self, state: AnalysisState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state

    def done(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layout: tuple[Any, Any] | None
    ) -> Any:
        every, writes = _schema(func)
        arguments = (*args, *[kwargs.get(name, default) for name, default in every[len(args) :]])
        entry = RULES.get(func) or (_POINTWISE if torch.Tag.pointwise in func.tags else _UNKNOWN)
        if fills_given(func):  # the rule tells of results, not of tensors that share the memory of `out`
            entry = _UNKNOWN
        call = Call(self.state, func, arguments, out, layout, entry.factor_at)
        if not writes:
            self._apply(entry, call)
            return out
        written = [x for place in writes for x in tensors_in(arguments[place])]
        waiting = [(x, ids) for x in written for ids in self.state.labels.of(x).uniform if ids is not None]
        self._apply(entry, call)
        for ids in (ids for x in written for ids in self.state.strided.of(x)):
            self.state.marks.freeze("a slice of channels with a step, changed in place", ids)
        # An axis that met channels has these now; on others, each position may have got a number of its own.
        still = [ids for x, ids in waiting if id(ids) not in call.woken or 0 in x.stride()]
        self.state.marks.freeze("an expanded or new tensor, changed in place", *still)
        return out

    def _apply(self, entry: Entry, call: Call) -> None:
        operands = tensors_in(call.args)
        every = [call.label(tensor) for tensor in operands]
        labels = [label for label in every if label.has_channels]
        waiting = any(label.waits for label in every)
        if not labels and not waiting and not entry.creates_channels:
            return
        alone = sum(label.has_channels or label.waits for label in every) == 1
        is_parameter = entry.keeps_parameters and alone and len(labels) == 1 and labels[0].is_parameter
        from_parameters = entry.reads_weights is None and bool(labels) and all(x.from_parameters for x in labels)
        if entry.reads_weights is None and not is_parameter:
            call.tie(*(ids for label in labels if label.is_parameter for ids in label.axes))
        constants = [label for label in labels if label.constant]
        if constants and (entry.reads_weights is not None or _without_channels(call, operands)):
            call.freeze("a buffer from which a table is computed", *(ids for label in constants for ids in label.axes))
        constant = from_parameters and 0 < len(constants) == len(labels)
        if call.node is not None and any(_is_computed(call, place, entry) for place in entry.reads_weights or ()):
            self.state.notes.computed_weight_users.add(call.node.name)
        answer = _checked(call, entry)
        uniform = _uniform(call, entry, every) if waiting or entry.creates_channels else [()] * len(answer)
        for tensor, axes, waits in zip(call.outs, answer, uniform, strict=True):
            self.state.labels.attach(tensor, Label(axes, is_parameter, from_parameters, constant, waits))


def _uniform(call: Call, entry: Entry, labels: list[Label]) -> list[Axes]:
    """Return the ids that wait on the axes of each result; freeze those read otherwise."""
    if entry.uniform is not None and torch.Tag.nondeterministic_seeded not in call.op.tags:
        return entry.uniform(call, entry.rule)
    waiting = [ids for label in labels for ids in label.uniform if id(ids) not in call.woken]
    call.freeze(f"{call.name} of an axis that was expanded", *waiting)
    return [()] * len(call.outs)


def _without_channels(call: Call, operands: list[torch.Tensor]) -> bool:
    return any(x.numel() > 1 and all(ids is None for ids in call.axes(x)) for x in operands)


def _is_computed(call: Call, place: int, entry: Entry) -> bool:
    """Tell whether stored weights may make an argument; a layer's own, as a product of two."""
    linear = call.node is not None and canonical_call(call.node.target) in LINEAR
    label, of_layer = call.label(call.args[place]), call.inside_layer or linear
    is_weight = of_layer and place == max(entry.reads_weights or ())
    return bool(label.from_parameters or is_weight) and not label.is_parameter


def _freeze_all(call: Call) -> list[Axes]:
    """Freeze every channel that enters an operator without a rule."""
    call.freeze(f"no rule for {call.op}", *(ids for tensor in tensors_in(call.args) for ids in call.axes(tensor)))
    return [unlabelled(tensor) for tensor in call.outs]


_POINTWISE, _UNKNOWN = Entry(pointwise, uniform=met), Entry(_freeze_all)


@functools.cache
def _schema(func: Any) -> tuple[list[tuple[str, Any]], list[int]]:
    """Return an operator's arguments with their defaults, and the places of those it writes to."""
    schema = op_arguments(func)
    writes = [place for place, argument in enumerate(schema) if argument.is_write]
    return [(argument.name, argument.default_value) for argument in schema], writes


def _checked(call: Call, entry: Entry) -> list[Axes]:
    """Run a rule and check its answer against the shapes of the results."""
    outs = call.outs
    try:
        answer = entry.rule(call)
    except FxpruneError:
        raise
    except Exception as error:
        raise AnalysisError(f"the rule for {call.op} failed at node `{call.node}`: {error!r}") from error
    axes = answer if isinstance(answer, list) else [answer]
    if len(outs) != len(axes) or not all(map(_fits, axes, outs)):
        found = [[None if ids is None else len(ids) for ids in on_tensor] for on_tensor in axes]
        raise AnalysisError(
            f"the rule for {call.op} labelled axes of length {found} at node `{call.node}`; "
            f"the result has shapes {[tuple(out.shape) for out in outs]}"
        )
    return axes


def _fits(axes: Axes, out: torch.Tensor) -> bool:
    return len(axes) == out.dim() and all(
        ids is None or len(ids) == size for ids, size in zip(axes, out.shape, strict=True)
    )
