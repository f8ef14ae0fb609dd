"""A model may ask whether gradients are recorded, and do the same in both cases.

So do layers that may be checkpointed: ``if torch.is_grad_enabled() and self.gradient_checkpointing``. Where traces with
both answers are the same, in eval mode and with the training flag, the guard of the answer goes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_equal
from fxprune.pytorch.modules import clone_sharing

from .tracing.concrete import ConcreteTracer
from .training_flag import traced_modules


def drop_idle_questions(module: fx.GraphModule, model: nn.Module, tracer: ConcreteTracer) -> None:
    """Drop the guards of whether gradients are recorded, if the answer changes nothing."""
    guards = [node for node in module.graph.nodes if _asks(node)]
    if not guards or not all(_is_idle(model, tracer, training) for training in (False, True)):
        return
    for guard in guards:
        question = guard.args[0]
        module.graph.erase_node(guard)
        if not question.users:
            module.graph.erase_node(question)
    module.recompile()


def _is_idle(model: nn.Module, tracer: ConcreteTracer, training: bool) -> bool:
    traces = []
    for gradients in (False, True):
        skeleton = clone_sharing(model).eval()
        for each in traced_modules(skeleton, tracer.keeps):
            each.training = training
        again = tracer.again(skeleton)
        again.gradients = gradients
        try:
            traces.append([_described(node) for node in again.trace(skeleton).nodes])
        except Exception:  # what cannot be traced may be anything
            return False
    return bool(traces[0] == traces[1])


def _asks(node: fx.Node) -> bool:
    return node.target is guard_equal and getattr(node.args[0], "target", None) is torch.is_grad_enabled


def _described(node: fx.Node) -> tuple[Any, ...]:
    """Describe a node by names, a guard of gradients without its answer."""
    given = node.args[:1] if _asks(node) else node.args
    return node.name, node.op, node.target, *fx.map_arg((given, node.kwargs), lambda each: each.name)
