"""The captured graph computes what the model computes in eval mode, at any batch size.

Capture is symbolic (torch.fx) at the level of modules: layers with shape attributes stay single modules under their own
names, and everything around them becomes nodes of the graph. If the model's Python code branches on a size, the graph
takes the branch of the example, with a guard; otherwise the image size is dynamic, too. Numbers that depend on the
training flag, such as the dropout of a fused attention, follow the graph's own flag; if training takes another path
than eval mode, the graph raises an error in training. A model that cannot be traced is exported
(:mod:`fxprune.capture.export`), as operations in eval mode.
"""

from __future__ import annotations

import functools
import keyword
from collections.abc import Iterator, Sequence

from torch import fx, nn

from fxprune.arguments.inputs import Inputs, as_meta
from fxprune.arguments.outputs import Outputs
from fxprune.common.threads import one_thread
from fxprune.equivalence import GRADIENTS, UNCHECKED, Difference, difference, preserved
from fxprune.errors import CaptureError, OptionError, first_line
from fxprune.pytorch.custom_functions import custom_functions_noted
from fxprune.pytorch.graph_module import GraphModule
from fxprune.pytorch.modes import show_blocks
from fxprune.pytorch.modules import clone_sharing
from fxprune.pytorch.torch_private import backward_hooks_of

from .caches import without_caches
from .export import EVAL_ONLY, EvalOnly, trace_exported
from .mode_guards import guard_modes
from .mode_questions import drop_idle_questions
from .outputs import object_returned, select_outputs, without_objects
from .overloads import choose_overloads, drop_sizes_stated_twice
from .refusals import Failures
from .sample_guards import admit_one_sample
from .tracing import (
    CUSTOM_GRADIENTS,
    ConcreteTracer,
    ObjectAskedError,
    SymbolicTracer,
    keeps_functions,
    modules_by_identity,
    reads_any,
)
from .training_flag import FlagWatcher, follow_training, traced_modules

WAY = "fxprune_capture"

WAYS = ("symbolic", "concrete", "export")
# Former names of ways, which are still valid.
_FORMER = {"plain": "symbolic", "values": "concrete"}


def capture(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    decomposed: frozenset[str] = frozenset(),
    ways: Sequence[str] = WAYS,
    check: bool = True,
    outputs: Outputs | None = None,
) -> fx.GraphModule:
    """Trace a model into a graph module that shares its parameters; the model is not modified.

    Args:
        model: any module.
        example_inputs: arguments of ``forward``, in order or by name; further arguments keep their defaults. All except
            tensors are constants of the graph, which raises an error for other values.
        decomposed: names of layers to trace into, although such layers usually are single nodes.
        ways: which of :data:`WAYS` to try; always in that order.
        check: compare each graph with the model on the example, and try the next way if they differ.
        outputs: places of the outputs that count; the graph returns no others. None: all.

    Raises:
        CaptureError: control flow depends on data, or the model cannot be traced for another reason.
    """
    return next(captures(model, example_inputs, decomposed=decomposed, ways=ways, check=check, outputs=outputs))


def captures(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    decomposed: frozenset[str] = frozenset(),
    ways: Sequence[str] = WAYS,
    check: bool = True,
    outputs: Outputs | None = None,
) -> Iterator[fx.GraphModule]:
    """Yield every graph that computes what the model computes, one for each way that succeeds.

    Arguments are those of :func:`capture`. ``graph_module.meta["fxprune_capture"]`` names the way: ``symbolic``,
    ``concrete`` if the example decided branches, or ``export``. ``graph_module.meta["fxprune_unchecked"]`` says what
    could not be compared with the model (:mod:`fxprune.equivalence.comparison`), and why.

    Raises:
        OptionError: a way does not exist.
        CaptureError: no further way succeeds; the message says why the others failed.
    """
    found = _captures(model, example_inputs, decomposed, ways, check, outputs)
    while True:
        with one_thread(), modules_by_identity(model), preserved(model):
            module = next(found, None)
        if module is None:
            return
        yield module


def _captures(
    model: nn.Module,
    example_inputs: Inputs,
    decomposed: frozenset[str],
    ways: Sequence[str],
    check: bool,
    outputs: Outputs | None,
) -> Iterator[fx.GraphModule]:
    ways = [_FORMER.get(way, way) for way in ways]
    if not ways or not set(ways) <= set(WAYS):
        raise OptionError(f"ways must be some of {', '.join(WAYS)}, not {', '.join(ways) or 'none'}.")
    _check_hooks(model)
    try:
        clone_sharing(model)
    except Exception as error:
        raise CaptureError(
            f"cannot copy {[*getattr(error, '__notes__', ()), type(model).__name__][0]}: {first_line(error)}. No "
            "attribute may hold a generator, an open file or a tensor that was computed and kept; for weight norm take "
            "`torch.nn.utils.parametrizations.weight_norm`."
        ) from error
    given = model
    if outputs is not None:
        model = without_objects(given, outputs)
    failures = Failures(given)
    for trace in (_traced, _exported):
        if failures.unasked:  # an export has tensors of a type of its own, too
            break
        for module in trace(model, example_inputs, decomposed, ways, failures):
            drop_sizes_stated_twice(module)
            choose_overloads(module, example_inputs)
            found = Difference(unchecked="it was not asked for")
            if check:
                found = difference(model, module, example_inputs)
            if found.always and trace is _exported and not failures.unlike and failures.traced:
                failures.exported = CaptureError(f"a graph of it computes something else: {found.always}")
                continue
            if found.always:
                failures.unlike.append(found.always)
                failures.unasked |= found.unasked and module.meta[WAY] == "concrete"
                if found.hopeless:
                    raise failures.as_error()
                continue
            source = model
            if check and module.meta[WAY] == "concrete":
                again = functools.partial(capture, decomposed=decomposed, ways=["concrete"])
                source, module, found = without_caches(model, module, example_inputs, found, again)
            if found.in_training:
                refuse_training(module, found.in_training)
            # What follows a custom function finds a gradient that its forward alone would lose.
            lost = [GRADIENTS] if module.meta[CUSTOM_GRADIENTS] and GRADIENTS not in found.modes else []
            guard_modes(module, [*found.modes, *lost])
            module.meta[UNCHECKED] = found.unchecked
            if check and module.meta[WAY] == "concrete":
                admit_one_sample(module, example_inputs, functools.partial(again, source))
            if outputs is not None:
                select_outputs(module, outputs)
            yield module
    if returned := object_returned(model, example_inputs):
        raise CaptureError(f"{type(given).__name__} returns {returned}.") from failures.as_error()
    raise failures.as_error()


def _traced(
    model: nn.Module, inputs: Inputs, decomposed: frozenset[str], ways: Sequence[str], failures: Failures
) -> Iterator[fx.GraphModule]:
    """Yield graphs of layers: first for all sizes, then for those of the example."""
    # Functions registered with `torch.fx.wrap` hide channels, so try first to trace through them.
    for through in (True, False) if keeps_functions() else (True,):
        symbolic = SymbolicTracer(inputs, decomposed, through=through)
        if "symbolic" in ways and (module := _trace(model, symbolic, inputs, failures)):
            yield module
        for literal in (False, True) if "concrete" in ways else ():
            tracer = ConcreteTracer(
                clone_sharing(model).eval(), as_meta(inputs), decomposed, through=through, literal=literal
            )
            if module := _trace(model, tracer, inputs, failures):
                yield module
                break  # literal types and devices are only for models that cannot be traced otherwise


def _trace(model: nn.Module, tracer: SymbolicTracer, inputs: Inputs, failures: Failures) -> fx.GraphModule | None:
    way = "concrete" if isinstance(tracer, ConcreteTracer) else "symbolic"
    skeleton = clone_sharing(model).eval()
    reads = FlagWatcher(traced_modules(skeleton, tracer.keeps))
    try:
        with preserved(model), reads:
            graph = tracer.trace(skeleton)
        module = _graph_module(model, skeleton, graph, way)
    except OptionError:
        raise
    except Exception as error:
        # The error of a concrete trace says more than that of a symbolic one.
        if way == "concrete" or failures.traced is None:
            failures.traced = tracer, error
        failures.unasked |= isinstance(error, ObjectAskedError)
        return None
    module.meta[CUSTOM_GRADIENTS] = [*tracer.custom_functions]
    if reads.found:
        _follow_training(module, model, tracer)
    if isinstance(tracer, ConcreteTracer):
        drop_idle_questions(module, model, tracer, inputs)
    return module


def _follow_training(module: fx.GraphModule, model: nn.Module, tracer: SymbolicTracer) -> None:
    """Trace again with the training flag of all traced modules set; layers stay in eval mode."""
    skeleton = clone_sharing(model).eval()
    for each in traced_modules(skeleton, tracer.keeps):
        each.training = True
    again = tracer.again(skeleton)
    again.notes_lines = False  # the graph has those of eval mode
    try:
        trained = again.trace(skeleton)
    except Exception:  # in training it may do what cannot be traced: then the graph raises an error there
        return
    if reads_any(trained, skeleton, tracer.overwritten.keys() - again.overwritten.keys()):
        return  # what it reads, a call in eval mode left
    follow_training(module, trained)


def _exported(
    model: nn.Module, inputs: Inputs, decomposed: frozenset[str], ways: Sequence[str], failures: Failures
) -> Iterator[fx.GraphModule]:
    """Yield a graph of operations in eval mode, without layers."""
    if "export" not in ways:
        return
    custom: dict[str, None] = {}
    try:
        with preserved(model), custom_functions_noted(custom):
            graph, constants = trace_exported(clone_sharing(model).eval(), inputs)
    except Exception as error:
        failures.exported = error
        return
    fresh = clone_sharing(model).eval()
    fresh.add_module(EVAL_ONLY, EvalOnly(operations=True).eval())
    for name, constant in constants.items():
        setattr(fresh, name, constant)
    show_blocks(graph)
    module = GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta.update({WAY: "export", CUSTOM_GRADIENTS: [*custom]})
    yield module


def refuse_training(module: fx.GraphModule, why: str) -> None:
    """Make a graph raise an error in training mode, where its model does something else."""
    if any(node.target == EVAL_ONLY for node in module.graph.nodes):
        return
    module.add_submodule(EVAL_ONLY, EvalOnly(f"the model does something else in training mode: {why}").eval())
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        module.graph.call_module(EVAL_ONLY)
    module.recompile()


def _check_hooks(model: nn.Module) -> None:
    """Raise CaptureError if a module with children has a backward hook: a trace would lose it."""
    for name, module in model.named_modules():
        if backward_hooks_of(module) and next(module.children(), None) is not None:
            raise CaptureError(
                f"module `{name or type(model).__name__}` has a backward hook, which no graph keeps: remove it first."
            )


def _graph_module(model: nn.Module, skeleton: nn.Module, graph: fx.Graph, way: str) -> fx.GraphModule:
    for node in graph.nodes:
        words = node.target.split(".") if node.op in ("call_module", "get_attr") else []
        if taken := [word for word in words if keyword.iskeyword(word)]:
            raise CaptureError(f"`{node.target}`: no graph can hold a layer called `{taken[0]}`, a keyword: rename it.")
    # Tracing runs the model's own code, which may set attributes: the graph gets an unchanged copy.
    fresh = clone_sharing(model).eval()
    for node in graph.nodes:
        if node.op == "get_attr" and "." not in node.target and not hasattr(fresh, node.target):
            setattr(fresh, node.target, getattr(skeleton, node.target))
    show_blocks(graph)
    module = GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = way
    return module
