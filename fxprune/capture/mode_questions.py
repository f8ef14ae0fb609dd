"""A model may ask whether gradients are recorded, and do the same in both cases.

So do layers that may be checkpointed: ``if torch.is_grad_enabled() and self.gradient_checkpointing``. The guard of the
answer goes where traces with both answers are the same, in eval mode and with the training flag, and where the graph
without it computes what the model computes while gradients are recorded: a trace does not show what a model keeps.
"""

from __future__ import annotations

import copy
from operator import attrgetter

import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs
from fxprune.equivalence import gradients_difference
from fxprune.pytorch.modules import clone_sharing

from .tracing import ConcreteTracer
from .training_flag import equal_arguments, traced_modules


def drop_idle_questions(module: fx.GraphModule, model: nn.Module, tracer: ConcreteTracer, inputs: Inputs) -> None:
    """Drop the guards of whether gradients are recorded, if the answer changes nothing."""
    if not any(map(_asks, module.graph.nodes)):
        return
    if not all(_is_idle(model, tracer, training) for training in (False, True)):
        return
    guarded, module.graph = module.graph, copy.deepcopy(module.graph)
    for guard in filter(_asks, module.graph.nodes):
        question = guard.all_input_nodes[0]
        module.graph.erase_node(guard)
        if not question.users:
            module.graph.erase_node(question)
    module.recompile()
    if gradients_difference(model, module, inputs):
        module.graph = guarded


def _is_idle(model: nn.Module, tracer: ConcreteTracer, training: bool) -> bool:
    try:
        without, recorded = (_trace_answering(model, tracer, training, gradients) for gradients in (False, True))
    except Exception:  # what cannot be traced may be anything
        return False
    nodes = zip(without.graph.nodes, recorded.graph.nodes, strict=False)
    return len(without.graph.nodes) == len(recorded.graph.nodes) and all(
        (a.name, a.op, a.target) == (b.name, b.op, b.target)
        and (_asks(a) or equal_arguments(a, b))
        and (a.op != "get_attr" or _is_same(*(attrgetter(str(a.target))(each) for each in (without, recorded))))
        for a, b in nodes
    )


def _trace_answering(model: nn.Module, tracer: ConcreteTracer, training: bool, gradients: bool) -> fx.GraphModule:
    skeleton = clone_sharing(model).eval()
    for each in traced_modules(skeleton, tracer.keeps):
        each.training = training
    again = tracer.again(skeleton)
    again.gradients = gradients
    return fx.GraphModule(skeleton, again.trace(skeleton))


def _asks(node: fx.Node) -> bool:
    return node.target is guard_equal and getattr(node.args[0], "target", None) is torch.is_grad_enabled


def _is_same(a: object, b: object) -> bool:
    """Tell whether two tensors that a trace keeps are one, or certainly have equal numbers."""
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return a is b
    if a.is_meta or (a.dtype, a.device, a.stride()) != (b.dtype, b.device, b.stride()):
        return False
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)
