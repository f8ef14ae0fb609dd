"""The captured graph computes what the model computes in eval mode, layer by layer, at any batch and image size.

Capture is symbolic (torch.fx) at module level: layers that own shape attributes stay whole modules under their old
names, everything around them becomes nodes of the graph. Where the model's Python branches on a size, the branch of the
example is taken and guarded. Numbers that it chooses by its training flag, such as the dropout of a fused attention,
follow the graph's own flag; where training takes another path than eval mode, the graph stops in training.
What that cannot trace is exported (:mod:`fxprune.capture.exported`), as operations in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from fxprune.common.inputs import Inputs, as_meta
from fxprune.common.modes import show_blocks
from fxprune.common.modules import clone_sharing
from fxprune.common.source import source_of_error
from fxprune.common.torch_private import backward_hooks_of
from fxprune.equivalence import UNCHECKED, Difference, difference
from fxprune.errors import CaptureError, OptionError, first_line

from .concrete import ConcreteTracer
from .exported import EVAL_ONLY, EvalOnly, trace_exported
from .symbolic import SymbolicTracer, keeps_functions
from .training_flag import FlagWatcher, follow_training, traced_modules

WAY = "fxprune_capture"

WAYS = ("symbolic", "concrete", "export")
# Names that ways had before, which go on being understood.
_FORMER = {"plain": "symbolic", "values": "concrete"}


def capture(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    decomposed: frozenset[str] = frozenset(),
    ways: Sequence[str] = WAYS,
    check: bool = True,
) -> fx.GraphModule:
    """Trace a model into a graph module that shares its parameters; the model is not modified.

    Args:
        model: any module.
        example_inputs: arguments of ``forward``, in order or by name; further arguments keep their defaults. All but
            tensors are constants of the graph, which refuses to run with others.
        decomposed: names of layers to trace into, though their like stays whole.
        ways: which of :data:`WAYS` to try; always in that order.
        check: hold each graph against the model on the example, and go on to the next way where they differ.

    Raises:
        CaptureError: control flow that depends on data, or another reason why the model cannot be traced.
    """
    return next(captures(model, example_inputs, decomposed=decomposed, ways=ways, check=check))


def captures(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    decomposed: frozenset[str] = frozenset(),
    ways: Sequence[str] = WAYS,
    check: bool = True,
) -> Iterator[fx.GraphModule]:
    """Every graph that computes what the model computes, one for each way that leads to one; arguments as above.

    ``graph_module.meta["fxprune_capture"]`` tells the way: ``symbolic``, ``concrete`` where branches were decided by
    the example, or ``export`` where operations are all that could be seen. What could not be held against the model
    (:mod:`fxprune.equivalence.compare`), and why, is in ``graph_module.meta["fxprune_unchecked"]``.

    Raises:
        OptionError: a way that there is not.
        CaptureError: there is no further way; with all that stood in the way of the others.
    """
    ways = [_FORMER.get(way, way) for way in ways]
    if not ways or not set(ways) <= set(WAYS):
        raise OptionError(f"ways must be some of {', '.join(WAYS)}, not {', '.join(ways) or 'none'}.")
    _check_hooks(model)
    try:
        clone_sharing(model)
    except Exception as error:
        raise CaptureError(
            f"cannot copy {type(model).__name__}: {first_line(error)}. Tensors that are computed and kept as "
            "attributes cannot be copied; for weight norm take `torch.nn.utils.parametrizations.weight_norm`."
        ) from error
    failures = _Failures(model)
    for trace in (_traced, _exported):
        for module in trace(model, example_inputs, decomposed, ways, failures):
            found = difference(model, module, example_inputs) if check else Difference(unchecked="it was not asked for")
            if found.always:
                failures.unlike.append(found.always)
                if found.hopeless:
                    raise failures.as_error()
                continue
            if found.in_training:
                _refuse_training(module, found.in_training)
            module.meta[UNCHECKED] = found.unchecked
            yield module
    raise failures.as_error()


@dataclass
class _Failures:
    """Why no way has led to a graph so far: where tracing and exporting stopped, and what differed."""

    model: nn.Module
    traced: tuple[SymbolicTracer, Exception] | None = None
    exported: Exception | None = None
    unlike: list[str] = field(default_factory=list)

    def as_error(self) -> CaptureError:
        """One error that says all of it."""
        name = type(self.model).__name__
        if self.unlike:
            error = CaptureError(
                f"cannot capture {name}: a graph of it computes something else: {self.unlike[0]}. Change that "
                "line, or give `check=False` if the network is to be taken as its graph computes it."
            )
            error.__cause__ = self.traced[1] if self.traced else self.exported
            return error
        if self.traced is None:
            assert self.exported is not None
            error = CaptureError(f"cannot export {name}: {_reason(self.exported)}")
            error.__cause__ = self.exported
            return error
        return _untraceable(self.model, *self.traced, exported=self.exported)


def _traced(
    model: nn.Module, inputs: Inputs, decomposed: frozenset[str], ways: Sequence[str], failures: _Failures
) -> Iterator[fx.GraphModule]:
    """Graphs of layers: first for all sizes, then at those of the example."""
    # Functions that their authors keep whole (`torch.fx.wrap`) hide channels: they are traced through, if that works.
    for through in (True, False) if keeps_functions() else (True,):
        symbolic = SymbolicTracer(inputs, decomposed, through=through)
        if "symbolic" in ways and (module := _trace(model, symbolic, failures)):
            yield module
        for literal in (False, True) if "concrete" in ways else ():
            tracer = ConcreteTracer(
                clone_sharing(model).eval(), as_meta(inputs), decomposed, through=through, literal=literal
            )
            if module := _trace(model, tracer, failures):
                yield module
                break  # types and devices as they are in the example are for what cannot be traced otherwise


def _trace(model: nn.Module, tracer: SymbolicTracer, failures: _Failures) -> fx.GraphModule | None:
    way = "concrete" if isinstance(tracer, ConcreteTracer) else "symbolic"
    skeleton = clone_sharing(model).eval()
    reads = FlagWatcher(traced_modules(skeleton, tracer.keeps))
    try:
        with reads:
            graph = tracer.trace(skeleton)
    except OptionError:
        raise
    except Exception as error:
        # What stops a symbolic trace says less than what stops a concrete one.
        if way == "concrete" or failures.traced is None:
            failures.traced = tracer, error
        return None
    module = _graph_module(model, skeleton, graph, way)
    if reads.found:
        _follow_training(module, model, tracer)
    return module


def _follow_training(module: fx.GraphModule, model: nn.Module, tracer: SymbolicTracer) -> None:
    """Trace once more with the flags of all that is traced into set; layers stay in eval mode and change nothing."""
    skeleton = clone_sharing(model).eval()
    for each in traced_modules(skeleton, tracer.keeps):
        each.training = True
    try:
        trained = tracer.again(skeleton).trace(skeleton)
    except Exception:  # in training it may do what cannot be traced: then the graph stops there
        return
    follow_training(module, trained)


def _exported(
    model: nn.Module, inputs: Inputs, decomposed: frozenset[str], ways: Sequence[str], failures: _Failures
) -> Iterator[fx.GraphModule]:
    """A graph of operations in eval mode, with layers gone."""
    if "export" not in ways:
        return
    try:
        graph, constants = trace_exported(clone_sharing(model).eval(), inputs)
    except Exception as error:
        failures.exported = error
        return
    fresh = clone_sharing(model).eval()
    fresh.add_module(EVAL_ONLY, EvalOnly(operations=True).eval())
    for name, constant in constants.items():
        owner, _, last = name.rpartition(".")
        setattr(fresh.get_submodule(owner), last, constant)
    show_blocks(graph)
    module = fx.GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = "export"
    yield module


def _refuse_training(module: fx.GraphModule, why: str) -> None:
    """Let a graph stop in training mode, where its model does something else."""
    if any(node.target == EVAL_ONLY for node in module.graph.nodes):
        return
    module.add_submodule(EVAL_ONLY, EvalOnly(f"the model does something else in training mode: {why}").eval())
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        module.graph.call_module(EVAL_ONLY)
    module.recompile()


def _check_hooks(model: nn.Module) -> None:
    """Backward hooks of what is traced into would be lost."""
    for name, module in model.named_modules():
        if backward_hooks_of(module) and next(module.children(), None) is not None:
            raise CaptureError(
                f"module `{name or type(model).__name__}` has a backward hook, which no graph keeps: remove it first."
            )


def _reason(error: Exception) -> str:
    return first_line(error, type(error).__name__)


def _untraceable(
    model: nn.Module, tracer: SymbolicTracer, error: Exception, *, exported: Exception | None
) -> CaptureError:
    where = tracer.inside[-1] if tracer.inside else type(model).__name__
    also = f" Exporting its operations fails too: {_reason(exported)}." if exported is not None else ""
    refusal = CaptureError(
        f"cannot trace {type(model).__name__}: {type(error).__name__} in module `{where}` at {source_of_error(error)}: "
        f"{first_line(error)}. Make the line independent of tensor values, give example inputs that "
        f"the model accepts, or keep a module without weights whole (`timm.layers.register_notrace_module`).{also}"
    )
    refusal.__cause__ = error
    return refusal


def _graph_module(model: nn.Module, skeleton: nn.Module, graph: fx.Graph, way: str) -> fx.GraphModule:
    # Tracing runs the model's own Python, which may set attributes: the graph stands on an untouched copy.
    fresh = clone_sharing(model).eval()
    for node in graph.nodes:
        if node.op == "get_attr" and "." not in node.target and not hasattr(fresh, node.target):
            setattr(fresh, node.target, getattr(skeleton, node.target))
    show_blocks(graph)
    module = fx.GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = way
    return module
