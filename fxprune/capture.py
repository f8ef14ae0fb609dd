"""The captured graph computes what the model computes in eval mode, layer by layer, at any batch and image size.

Capture is symbolic (torch.fx) at module level: layers that own shape attributes stay whole modules under their old
names, everything around them becomes nodes of the graph. Where the model's Python branches on a size, the branch of the
example is taken and guarded. Numbers that it chooses by its training flag, such as the dropout of a fused attention,
follow the graph's own flag; where training takes another path than eval mode, the graph keeps to that of eval mode.
What that cannot trace is exported (:mod:`fxprune.exported`), as operations in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from fxprune.errors import CaptureError, OptionError
from fxprune.exported import EVAL_ONLY, EvalOnly, trace_exported
from fxprune.inputs import Inputs, as_meta
from fxprune.meta import share_copy
from fxprune.source import source_of_error
from fxprune.tracer import PlainTracer
from fxprune.training_mode import FlagReads, entered, follow_training
from fxprune.value_tracer import ValueTracer

WAY = "fxprune_capture"

# Functions that their authors keep whole (`torch.fx.wrap`) hide channels: they are traced through, if that works.
_TRACED = (("plain", True), ("values", True), ("plain", False), ("values", False))
WAYS = ("plain", "values", "export")


def capture(
    model: nn.Module, example_inputs: Inputs, *, opened: frozenset[str] = frozenset(), ways: Sequence[str] = WAYS
) -> fx.GraphModule:
    """Trace a model into a graph module that shares its parameters; the model is not modified.

    ``graph_module.meta["fxprune_capture"]`` tells the way: ``plain``, ``values`` where branches were decided by the
    example, or ``export`` where operations are all that could be seen.

    Args:
        model: any module.
        example_inputs: arguments of ``forward``, in order or by name; further arguments keep their defaults. All but
            tensors are constants of the graph, which refuses to run with others.
        opened: names of layers to trace into, though their like stays whole.
        ways: which of :data:`WAYS` to try; always in that order.

    Raises:
        CaptureError: control flow that depends on data, or another reason why the model cannot be traced.
    """
    try:
        share_copy(model)
    except Exception as error:
        raise CaptureError(
            f"cannot copy {type(model).__name__}: {str(error).splitlines()[0]}. Tensors that are computed and kept as "
            "attributes cannot be copied; for weight norm take `torch.nn.utils.parametrizations.weight_norm`."
        ) from error
    failure: tuple[PlainTracer, Exception] | None = None
    for way, through in _TRACED:
        if way not in ways:
            continue
        skeleton = share_copy(model).eval()
        tracer = _tracer(way, skeleton, example_inputs, opened, through)
        reads = FlagReads(entered(skeleton, tracer.keeps))
        try:
            with reads:
                graph = tracer.trace(skeleton)
        except OptionError:
            raise
        except Exception as error:
            failure = failure if way == "plain" else (tracer, error)
            continue
        module = _graph_module(model, skeleton, graph, way)
        if reads.found:
            _follow_training(module, model, example_inputs, opened, through)
        return module
    if "export" in ways:
        try:
            return _exported(model, example_inputs)
        except Exception as error:
            if failure is None:
                raise CaptureError(f"cannot export {type(model).__name__}: {_reason(error)}") from error
            raise _untraceable(model, *failure, exported=_reason(error)) from failure[1]
    assert failure is not None
    raise _untraceable(model, *failure) from failure[1]


def _tracer(
    way: str, skeleton: nn.Module, inputs: Inputs, opened: frozenset[str], through: bool
) -> PlainTracer | ValueTracer:
    if way == "plain":
        return PlainTracer(inputs, opened, through=through)
    return ValueTracer(skeleton, as_meta(inputs), opened, through=through)


def _follow_training(
    module: fx.GraphModule, model: nn.Module, inputs: Inputs, opened: frozenset[str], through: bool
) -> None:
    """Trace once more with the flags of all that is traced into set; layers stay in eval mode and change nothing."""
    skeleton = share_copy(model).eval()
    for each in entered(skeleton, PlainTracer(inputs, opened, through=through).keeps):
        each.training = True
    try:
        trained = _tracer(module.meta[WAY], skeleton, inputs, opened, through).trace(skeleton)
    except Exception:  # in training it may do what cannot be traced: then it keeps to eval mode
        return
    follow_training(module, trained)


def _exported(model: nn.Module, example_inputs: Inputs) -> fx.GraphModule:
    graph, constants = trace_exported(share_copy(model).eval(), example_inputs)
    fresh = share_copy(model).eval()
    fresh.add_module(EVAL_ONLY, EvalOnly().eval())
    for name, constant in constants.items():
        owner, _, last = name.rpartition(".")
        setattr(fresh.get_submodule(owner), last, constant)
    module = fx.GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = "export"
    return module


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _untraceable(model: nn.Module, tracer: PlainTracer, error: Exception, *, exported: str = "") -> CaptureError:
    where = tracer.inside[-1] if tracer.inside else type(model).__name__
    reason = str(error).splitlines()[0] if str(error) else "no message"
    also = f" Exporting its operations fails too: {exported}." if exported else ""
    return CaptureError(
        f"cannot trace {type(model).__name__}: {type(error).__name__} in module `{where}` at "
        f"{source_of_error(error)}: {reason}. Make the line independent of tensor values, give example inputs that "
        f"the model accepts, or keep a module without weights whole (`timm.layers.register_notrace_module`).{also}"
    )


def _graph_module(model: nn.Module, skeleton: nn.Module, graph: fx.Graph, way: str) -> fx.GraphModule:
    # Tracing runs the model's own Python, which may set attributes: the graph stands on an untouched copy.
    fresh = share_copy(model).eval()
    for node in graph.nodes:
        if node.op == "get_attr" and "." not in node.target and not hasattr(fresh, node.target):
            setattr(fresh, node.target, getattr(skeleton, node.target))
    module = fx.GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = way
    return module
