"""The captured graph computes what the model computes in eval mode, layer by layer, at any batch and image size.

Capture is symbolic (torch.fx) at module level: layers that own shape attributes stay whole modules under their old
names, everything around them becomes nodes of the graph. Where the model's Python branches on a size, the branch of the
example is taken and guarded.
"""

from __future__ import annotations

from torch import fx, nn

from fxprune.errors import CaptureError, OptionError
from fxprune.inputs import Inputs, as_meta
from fxprune.meta import share_copy
from fxprune.source import source_of_error
from fxprune.tracer import PlainTracer, ValueTracer

WAY = "fxprune_capture"


def capture(model: nn.Module, example_inputs: Inputs) -> fx.GraphModule:
    """Trace a model into a graph module that shares its parameters; the model is not modified.

    ``graph_module.meta["fxprune_capture"]`` tells the way: ``plain``, or ``values`` where branches were decided by the
    example.

    Args:
        model: any module.
        example_inputs: arguments of ``forward``, in order or by name; further arguments keep their defaults. All but
            tensors are constants of the graph, which refuses to run with others.

    Raises:
        CaptureError: control flow that depends on data, or another reason why the model cannot be traced.
    """
    try:
        skeleton = share_copy(model).eval()
    except Exception as error:
        raise CaptureError(
            f"cannot copy {type(model).__name__}: {str(error).splitlines()[0]}. Tensors that are computed and kept as "
            "attributes cannot be copied; for weight norm take `torch.nn.utils.parametrizations.weight_norm`."
        ) from error
    try:
        return _graph_module(model, skeleton, PlainTracer(example_inputs), "plain")
    except OptionError:
        raise
    except Exception:
        # Whatever stopped it, the tracer that knows values either passes or says where and why.
        skeleton = share_copy(model).eval()
    tracer = ValueTracer(skeleton, as_meta(example_inputs))
    try:
        return _graph_module(model, skeleton, tracer, "values")
    except Exception as error:
        where = tracer.inside[-1] if tracer.inside else type(model).__name__
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise CaptureError(
            f"cannot trace {type(model).__name__}: {type(error).__name__} in module `{where}` at "
            f"{source_of_error(error)}: {reason}. Make the line independent of tensor values, give example inputs that "
            "the model accepts, or keep a module without weights whole (`timm.layers.register_notrace_module`)."
        ) from error


def _graph_module(model: nn.Module, skeleton: nn.Module, tracer: PlainTracer, way: str) -> fx.GraphModule:
    graph = tracer.trace(skeleton)
    # Tracing runs the model's own Python, which may set attributes: the graph stands on an untouched copy.
    fresh = share_copy(model).eval()
    for node in graph.nodes:
        if node.op == "get_attr" and "." not in node.target and not hasattr(fresh, node.target):
            setattr(fresh, node.target, getattr(skeleton, node.target))
    module = fx.GraphModule(fresh, graph, class_name=type(model).__name__)
    module.meta[WAY] = way
    return module
