"""Compare a captured graph with its model in eval and training mode, and under autocast.

Where both run the same program on the meta device (:mod:`fxprune.equivalence.programs`), one call on a usual device is
enough: of the model alone, if it shows that program, too. Its numbers are computed only where somebody reads one.

A trace runs the Python code of a model with proxies, which the code can distinguish from tensors. If it decided
otherwise because of that, it shows when graph and model run on the same numbers: another output, a tensor that only one
of them writes to, random numbers that only one of them draws, a result that is kept for the next call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, as_meta, inputs_for
from fxprune.arguments.misfits import unfit
from fxprune.common.threads import one_thread
from fxprune.errors import CaptureError
from fxprune.pytorch.data_writes import attribute_writes
from fxprune.pytorch.modules import map_tensors, named_tensors
from fxprune.pytorch.precision import PromoteMixed
from fxprune.pytorch.torch_private import pytree

from .attributes import KEEPS, Attributes, changes_of_itself, rewiring_of
from .autocast import difference_under_autocast
from .example_values import changed, doubled_on_meta, values_of
from .layer_difference import first_layer
from .meta_comparison import are_shown_equal
from .mode_differences import GRADIENTS, IN_EVAL, IN_TRAINING, Mode, gradients_differ, modes_that_differ
from .observation import Observation, compare, observe, try_to_observe
from .pair import Pair
from .preservation import preserved
from .programs import TELLS, HistoryQuestions, RealRun, only_the_model_asks
from .size_difference import difference_at_other_sizes
from .training import noise_in_weights, training_difference

# The key in a captured graph's `meta` that says what could not be compared.
UNCHECKED = "fxprune_unchecked"


@dataclass(frozen=True)
class Difference:
    """The differences between a captured graph and its model; empty text: none.

    Attributes:
        always: in eval mode; then the graph is not usable.
        in_training: in training mode only.
        unchecked: what could not be compared, and why.
        hopeless: no other graph can agree.
        unasked: only the model asks a tensor for what the graph depends on.
        modes: those in which the graph is not usable.
    """

    always: str = ""
    in_training: str = ""
    unchecked: str = ""
    hopeless: bool = False
    unasked: bool = False
    modes: tuple[Mode, ...] = ()


def difference(
    model: nn.Module,
    module: fx.GraphModule,
    example_inputs: Inputs,
    *,
    stated: Collection[str] = (),
    eval_only: bool = False,
) -> Difference:
    """Compare a captured graph with its model on the example, and on other numbers.

    Args:
        model: any module; neither it nor any random number generator is changed.
        module: graph that shares its tensors.
        example_inputs: tensors on the meta device are replaced by random numbers.
        stated: what the model may ask of tensors and the graph need not, since its layers state it themselves.
        eval_only: compare in eval mode, without autocast.

    Raises:
        CaptureError: the model does not run on the example.
    """
    if any(tensor.is_meta for _, tensor in named_tensors(model)):
        return Difference(unchecked="weights on the meta device have no numbers to compare")
    pair = Pair(model, module)
    pair.programs.stated = stated
    with one_thread(), attribute_writes(), preserved(model) as before, torch.no_grad():
        before.rewired, before.touched = None, False
        given = values_of(example_inputs, pair.device)
        suited = inputs_for(model, given)
        # An analysis needs shapes only, so the example may have another dtype, and so may numbers that the model makes.
        settings = (given, contextlib.nullcontext()), (suited, contextlib.nullcontext()), (suited, PromoteMixed())
        failure: CaptureError | None = None
        for inputs, setting in settings:
            try:
                with setting:
                    found = _difference(pair, inputs, eval_only)
                    break
            except CaptureError as error:
                failure = failure or error
        else:
            assert failure is not None
            raise failure
    # Now all is restored, and it is known whether calls of copies had changed the model itself.
    why = rewiring_of(model, before.rewired)
    if before.touched and not (why or found.always):
        why = changes_of_itself(pair, inputs, setting)
    return Difference(why, hopeless=True) if why else found


def _difference(pair: Pair, inputs: Inputs, eval_only: bool) -> Difference:
    always = _in_eval(pair, inputs)
    if always or eval_only:
        return Difference(always, hopeless=always.startswith((KEEPS, TELLS)), unasked=bool(pair.programs.unasked))
    with preserved(pair.model):
        always, unknown = difference_under_autocast(pair, inputs)
    if always:
        return Difference(always)
    if noise := noise_in_weights(pair):
        in_training, why = noise, ""
    elif _is_proven_in_training(pair, inputs):
        in_training, why = "", ""
    else:
        in_training, why = training_difference(pair, inputs)
    if pair.programs.unasked and not in_training:
        in_training = only_the_model_asks(pair.programs.unasked)
    may_differ = (pair.may_ask_modes or pair.asks_modes or pair.programs.needs_numbers) and not pair.exported
    modes = modes_that_differ(pair, inputs, certain=pair.asks_modes) if may_differ else []
    if pair.exported and gradients_differ(pair, inputs):
        modes.append(GRADIENTS)
    return Difference("", in_training, "; ".join(filter(None, (unknown, why))), modes=tuple(modes))


def _is_proven_in_training(pair: Pair, inputs: Inputs) -> bool:
    # Batch normalisation needs more than one value for each channel.
    twice = [as_meta(inputs), doubled_on_meta(inputs)]
    if pair.tells.asks:
        return False
    if not pair.proven or pair.programs.are_equal(twice, training=True, modes=IN_TRAINING):
        return pair.proven
    pair.asks_modes |= (equal := pair.programs.are_equal(twice, training=True))
    return equal


def _in_eval(pair: Pair, first: Inputs) -> str:
    """Compare two calls in a row on different numbers; return the first difference."""
    with preserved(pair.model):  # no copy has variables of its own
        shown = are_shown_equal(pair, first)
    if shown:
        pair.proven = pair.proven_at_first = pair.alike = True
        return ""
    model = pair.copy(pair.model)
    why = _in_two_calls(pair, model, Attributes(model, pair.leaf_modules), first)
    return difference_at_other_sizes(pair, first) if not why and pair.keeps else why


def _in_two_calls(pair: Pair, model: nn.Module, attributes: Attributes, first: Inputs) -> str:
    second = pytree.tree_map_only(Tensor, changed, first)
    record = None if pair.exported else pair.programs.record(model)
    history = HistoryQuestions()
    try:
        with attributes.watched():
            wanted = observe(model, first, history.recording if record is None else record.recording)
    except Exception as error:
        raise CaptureError(f"{type(model).__name__} {unfit(model, first, error)}") from error
    if kind := next(filter(None, map(_special_kind, wanted.outputs)), ""):
        raise CaptureError(
            f"{type(model).__name__} returns a {kind} tensor, which no comparison takes: return it dense."
        )
    if why := pair.unwatched_difference(first, wanted):
        return why
    if wanted.attributes:
        return f"the model sets the attribute `{wanted.attributes[0]}` of an input or output, which no graph does"
    pair.take_caches(wanted, attributes.assigned())
    pair.keeps = bool(attributes.assigned() or attributes.changed_containers)
    _prove(pair, record, model, first)
    if asked := pair.programs.unasked or history.found:
        return only_the_model_asks(asked)
    # What was put into a list or a table may be read by later calls: numbers must decide.
    pair.may_ask_modes |= bool(attributes.changed_containers or attributes.assigned())
    pair.proven = pair.proven and not attributes.changed_containers
    pair.proven = pair.proven and record is not None and not record.reads_numbers
    pair.proven_at_first = record is not None and pair.programs.is_of_graph(record)
    if pair.proven and pair.proven_at_first and record is not None and not record.keeps:
        pair.alike = True
        return ""
    module = pair.copy(pair.module)
    found = try_to_observe(module, first)
    if isinstance(found, str) or (why := compare(wanted, found)):
        return f"it {found}" if isinstance(found, str) else f"{attributes.with_lines(why)}{first_layer(pair, first)}"
    # What Python code can tell from tensors on the meta device has shown by now, except in what one call leaves behind.
    if pair.proven:
        pair.alike = True
        return ""
    if why := _at_a_second_call(pair, model, module, attributes, second):
        return why
    return _where_gradients_are_recorded(model, module, second) if pair.exported else ""


def _prove(pair: Pair, record: RealRun | None, model: nn.Module, inputs: Inputs) -> None:
    """Find out whether both certainly run one program in eval mode, and in other modes, too."""
    if record is None:
        return
    prove = functools.partial(pair.programs.are_equal, [as_meta(inputs)], training=False, after=model)
    pair.programs.needs_numbers = record.reads_numbers
    pair.proven = prove(modes=IN_EVAL)
    if not pair.proven and not pair.programs.is_of_model(record):
        pair.may_ask_modes = True
        pair.proven = pair.asks_modes = prove()
    pair.asks_modes |= record.holds_questions


def _at_a_second_call(pair: Pair, model: nn.Module, module: nn.Module, attributes: Attributes, second: Inputs) -> str:
    """Compare what the first call left behind, and other numbers and weights."""
    with attributes.watched():
        wanted = observe(model, second)
    pair.take_caches(wanted, attributes.assigned())
    if kept := attributes.kept():
        return f"{KEEPS} {kept} from one call to the next, which no graph does"
    own = {name for name, _ in pair.model.named_parameters(remove_duplicate=False)}
    if written := own & wanted.state.keys():
        return f"{KEEPS} what it writes to its parameter `{min(written)}`, which is no longer the one that was trained"
    found = try_to_observe(module, second)
    if why := _difference_of(wanted, found):
        return f"at a second call, {why}"
    assert not isinstance(found, str)
    # The record of the first call shows it for all weights.
    if not pair.proven_at_first and (why := _with_other_weights(pair, second)):
        return why
    pair.alike = wanted.operations == found.operations and not wanted.uses_autocast
    return ""


def _where_gradients_are_recorded(model: nn.Module, module: nn.Module, inputs: Inputs) -> str:
    """Compare where PyTorch records gradients, which an export does not."""
    with torch.enable_grad():
        wanted, found = (try_to_observe(each, inputs) for each in (model, module))
    if isinstance(wanted, str):  # the model records none
        return "" if isinstance(found, str) else f"where gradients are recorded, only the model {wanted}"
    why = _difference_of(wanted, found)
    return f"where gradients are recorded, {why}" if why else ""


def gradients_difference(model: nn.Module, module: fx.GraphModule, example_inputs: Inputs) -> str:
    """Compare where gradients are recorded; return the first difference, or why it is unknown.

    Both modes, eval and training, are compared.
    Arguments are those of :func:`difference`.
    """
    if any(tensor.is_meta for _, tensor in named_tensors(model)):
        return "weights on the meta device have no numbers to compare"
    pair = Pair(model, module)
    with one_thread(), attribute_writes(), preserved(model), torch.enable_grad():
        inputs = inputs_for(model, values_of(example_inputs, pair.device))
        wanted, found = (try_to_observe(each, inputs) for each in pair.copies())
        if isinstance(wanted, str):
            return f"the model {wanted}"
        return _difference_of(wanted, found) or "".join(training_difference(pair, inputs))


def _difference_of(wanted: Observation, found: Observation | str) -> str:
    return f"it {found}" if isinstance(found, str) else compare(wanted, found)


def _with_other_weights(pair: Pair, inputs: Inputs) -> str:
    """Compare where all parameters are others, of which a graph may hold constants."""

    def other(_: str, tensor: Tensor) -> Tensor:
        new = pair.tensor(tensor)
        return changed(new) if isinstance(tensor, nn.Parameter) else new

    model, module = (map_tensors(each, other, only_runs=True).eval() for each in (pair.model, pair.module))
    wanted = try_to_observe(model, inputs)
    if isinstance(wanted, str):  # the model may depend on its own numbers
        return ""
    found = try_to_observe(module, inputs)
    if isinstance(found, str):
        return f"with other weights, it {found}"
    wanted.state, found.state = {}, {}  # what both write to has been compared by now
    why = compare(wanted, found)
    return f"with other weights, {why}" if why else ""


def _special_kind(output: Any) -> str:
    """Name the kind of a tensor whose numbers do not lie side by side; empty for all others."""
    if not isinstance(output, Tensor) or (output.layout == torch.strided and not output.is_nested):
        return ""
    return "nested" if output.is_nested else str(output.layout).removeprefix("torch.").strip("_").replace("_", " ")
