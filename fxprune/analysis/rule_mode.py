"""Pass every ATen operation of a run on the meta device to its rule, and check the answer."""

from __future__ import annotations

import functools
from typing import Any

import torch

from fxprune.errors import AnalysisError, FxpruneError
from fxprune.pytorch.call_targets import LINEAR, call_kind, is_own_function, runs_own_code
from fxprune.pytorch.modules import MetaMode
from fxprune.pytorch.torch_private import fills_given, memory_of, op_arguments

from .call import Call
from .channels import Axes
from .labels import Label, tensors_in
from .lengths import factors_behind
from .operation import unlabelled
from .origins import CONSTANT_TABLE
from .own_code import lays_out
from .rules import POINTWISE, Entry, entry_of
from .state import AnalysisState


class RuleMode(MetaMode):
    """A mode that passes every ATen operation to its rule."""

    def __init__(self, state: AnalysisState) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state

    def done(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layout: tuple[Any, Any] | None
    ) -> Any:
        """Label the results of an operation by its rule; freeze what it cannot label."""
        every, writes = _schema(func)
        arguments = (*args, *[kwargs.get(name, default) for name, default in every[len(args) :]])
        entry = entry_of(func) or (POINTWISE if torch.Tag.pointwise in func.tags else _UNKNOWN)
        if fills_given(func):  # the rule tells of results, not of tensors that share the memory of `out`
            entry = _UNKNOWN
        call = Call(self.state, func, arguments, out, layout, entry.factor_at, waits=False)
        if not writes:
            self._apply(entry, call)
            return out
        written = [x for at in writes for x in tensors_in(arguments[at])]
        waiting = [(x, ids) for x in written for ids in self.state.labels.of(x).uniform if ids is not None]
        awake = {id(ids) for _, ids in waiting if self.state.labels.is_awake(ids)}
        self._apply(entry, call)
        for x in written:
            self.state.strided.write(x, reshapes=torch.Tag.inplace_view in func.tags)
        if self.state.marks.node is None:
            self.state.freeze_views({})
        # An axis that met channels has these now; on others, each position may have got a number of its own.
        still = [ids for x, ids in waiting if id(ids) not in call.woken | awake or 0 in x.stride()]
        if not (call.name in _FILLS and all(map(_is_all, written))):
            self.state.marks.freeze("an expanded or new tensor, changed in place", *still)
        for x in written:  # one that was resized holds other numbers
            if len(self.state.labels.of(x).axes) != x.dim():
                self.state.labels.attach(x, Label(unlabelled(x)))
        return out

    def _apply(self, entry: Entry, call: Call) -> None:
        operands = tensors_in(call.args)
        every = [call.label(tensor) for tensor in operands]
        if any(label.table for label in every) and not _keeps_tables(call, operands, every):
            every = [self._dropped(call, x, label) for x, label in zip(operands, every, strict=True)]
        labels = [label for label in every if label.has_channels]
        waiting = any(label.waits for label in every)
        if not labels and not waiting and not entry.creates_channels:
            return
        alone = sum(label.has_channels or label.waits for label in every) == 1
        is_parameter = entry.keeps_parameters and alone and len(labels) == 1 and labels[0].is_parameter
        from_parameters = entry.reads_weights is None and bool(labels) and all(x.from_parameters for x in labels)
        if entry.reads_weights is None and not is_parameter:
            call.tie(*(ids for label in labels if label.is_parameter for ids in label.axes))
        elif entry.reads_weights:  # a parameter where an activation should be
            given = [x for at, x in enumerate(call.args) if at not in entry.reads_weights]
            call.tie(*(ids for x in tensors_in(given) if call.label(x).is_parameter for ids in call.axes(x)))
        constants = [label for label in labels if label.constant]
        if constants and (_reads_constants(call, entry, constants) or _without_channels(call, operands)):
            call.freeze(CONSTANT_TABLE, *(ids for label in constants for ids in label.axes))
        constant = from_parameters and 0 < len(constants) == len(labels)
        table = constant and any(label.table for label in labels)
        if call.node is not None and any(_is_computed(call, at, entry) for at in entry.reads_weights or ()):
            self.state.notes.computed_weight_users.add(call.node.name)
        answer = _checked(call, entry)
        uniform = _uniform(call, entry, every) if waiting or entry.creates_channels else [()] * len(answer)
        lengths = factors_behind(call, every, answer, pointwise=entry.uniform is POINTWISE.uniform)
        for tensor, axes, waits, factors in zip(call.outs, answer, uniform, lengths, strict=True):
            label = Label(axes, is_parameter, from_parameters, constant, table, waits, factors)
            self.state.labels.attach(tensor, label)
        if call.node is not None and (runs_own_code(call.node) or is_own_function(call.node)):
            inside = self.state.notes.inside.setdefault(call.node.name, {})
            made = zip(answer, (tuple(x.shape) for x in call.outs), strict=True)
            inside |= {(shape, *map(id, axes)): (axes, shape) for axes, shape in made}
            if lays_out(call.name, weights=from_parameters):
                self.state.notes.lays_out.add(call.node.name)

    def _dropped(self, call: Call, tensor: torch.Tensor, label: Label) -> Label:
        """Freeze the channels of a table, which carries none from here on."""
        if label.table:
            call.freeze(CONSTANT_TABLE, *label.axes)
            label = Label((None,) * tensor.dim(), uniform=label.uniform, factors=label.factors)
            self.state.labels.attach(tensor, label)
        return label


def _keeps_tables(call: Call, operands: list[torch.Tensor], labels: list[Label]) -> bool:
    """Tell whether an operator adds, cuts or scales a table, or filters channels by it."""
    if _is_depthwise(call):
        return True
    if call.name in _SCALES:
        return all(label.table != (x.numel() == 1) for x, label in zip(operands, labels, strict=True))
    return call.name in _ADDS or (call.name in _TAKES and len(operands) == 1)


def _uniform(call: Call, entry: Entry, labels: list[Label]) -> list[Axes]:
    """Return the ids that wait on the axes of each result; freeze those read otherwise."""
    if entry.uniform is not None and torch.Tag.nondeterministic_seeded not in call.op.tags:
        return entry.uniform(call, entry.rule)
    waiting = [ids for label in labels for ids in label.uniform if id(ids) not in call.woken]
    call.freeze(f"{call.name} of an axis that was expanded", *waiting)
    return [()] * len(call.outs)


def _without_channels(call: Call, operands: list[torch.Tensor]) -> bool:
    return any(x.numel() > 1 and all(ids is None for ids in call.axes(x)) for x in operands)


def _reads_constants(call: Call, entry: Entry, constants: list[Label]) -> bool:
    """Tell whether a product has constants elsewhere than that of a first state."""
    if entry.reads_weights is None or _is_depthwise(call):
        return False
    factors = [call.label(call.args[at]) for at in entry.reads_weights]
    is_state = len(factors) == 2 and constants == factors[:1] and all(factor.is_parameter for factor in factors)
    return not is_state


def _is_computed(call: Call, at: int, entry: Entry) -> bool:
    """Tell whether stored weights may make an argument; a layer's own, as a product of two."""
    linear = call.node is not None and call_kind(call.node) in LINEAR
    label, of_layer = call.label(call.args[at]), call.inside_layer or linear
    is_weight = of_layer and at == max(entry.reads_weights or ())
    return bool(label.from_parameters or is_weight) and not label.is_parameter


def _freeze_all(call: Call) -> list[Axes]:
    """Freeze every channel that enters an operator without a rule."""
    call.freeze(f"no rule for {call.op}", *(ids for tensor in tensors_in(call.args) for ids in call.axes(tensor)))
    return [unlabelled(tensor) for tensor in call.outs]


def _is_depthwise(call: Call) -> bool:
    """Tell whether a convolution has a kernel for each channel, of which no column is summed."""
    return call.name == "convolution" and call.args[1].shape[1] == 1 < call.named("groups")


_FILLS = {"fill_", "zero_"}
_ADDS, _SCALES = {"add", "add_", "sub", "sub_"}, {"mul", "div"}
_TAKES = {
    "_to_copy", "alias", "clone", "detach", "expand", "permute", "select", "slice", "squeeze", "t", "transpose",
    "unsqueeze",
}  # fmt: skip
_UNKNOWN = Entry(_freeze_all)


def _is_all(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is all that its memory holds, no slice."""
    return 0 not in tensor.stride() and memory_of(tensor) == tensor.numel() * tensor.element_size()


@functools.cache
def _schema(func: Any) -> tuple[list[tuple[str, Any]], list[int]]:
    """Return an operator's arguments with their defaults, and the indices of those it writes to."""
    schema = op_arguments(func)
    writes = [at for at, argument in enumerate(schema) if argument.is_write]
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
