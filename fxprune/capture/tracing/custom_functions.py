"""Trace into custom autograd functions: PyTorch would read a proxy as if it were a tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.autograd import Function

from fxprune.pytorch.custom_functions import applied_by, custom_functions_noted
from fxprune.pytorch.torch_private import pytree

from .proxies import ConcreteProxy, InPlaceProxy


class _Context:
    """The context of a forward whose backward never runs."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self._inputs = inputs

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """Tell of each input whether it needs a gradient, with a guard."""
        return tuple(_needs_gradient(each) for each in self._inputs)

    def save_for_backward(self, *tensors: Any) -> None:
        """Save nothing."""

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_backward


def _needs_gradient(value: Any) -> bool:
    if isinstance(value, ConcreteProxy):
        return value.is_tensor() and bool(value.tracer.fixed(value, "requires_grad"))
    if isinstance(value, InPlaceProxy):
        error = fx.proxy.TraceError("a custom function asks which of its inputs need gradients")
        raise value.tracer.refusal(error)  # type: ignore[attr-defined]
    return isinstance(value, torch.Tensor) and value.requires_grad


# Of a graph: classes with a gradient of their own, which it computes by their forward alone.
CUSTOM_GRADIENTS = "fxprune_custom_gradients"


@contextlib.contextmanager
def custom_functions_traced(found: dict[str, None]) -> Iterator[None]:
    """Call the forward of a custom function that gets a proxy; add its name to ``found``."""

    def apply(call: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            return call(*args, **kwargs)
        found[cls.__name__] = None
        context = _Context(args)
        if cls.setup_context is Function.setup_context:
            return cls.forward(context, *args, **kwargs)
        output = cls.forward(*args, **kwargs)
        cls.setup_context(context, args, output)
        return output

    with applied_by(apply), custom_functions_noted(found):
        yield
