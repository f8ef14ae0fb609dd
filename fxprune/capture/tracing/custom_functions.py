"""Trace into custom autograd functions: PyTorch would read a proxy as if it were a tensor."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.autograd import Function

from fxprune.pytorch.custom_functions import applied_by, custom_functions_noted, custom_functions_of_constants
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


def _is_constant(value: Any) -> bool:
    """Tell whether no tensor of the network is meant, whose gradient it may need or not."""
    return not isinstance(value, torch.Tensor) or (type(value) is torch.Tensor and not value.requires_grad)


# Of a graph: classes with a gradient of their own, which it computes by their forward alone.
CUSTOM_GRADIENTS = "fxprune_custom_gradients"


@contextlib.contextmanager
def custom_functions_traced(found: dict[str, None]) -> Iterator[None]:
    """Call the forward of a custom function that gets a proxy; add its name to ``found``."""

    def apply(call: Any, cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, fx.Proxy) for leaf in leaves):
            with custom_functions_of_constants() if all(map(_is_constant, leaves)) else contextlib.nullcontext():
                return call(*args, **kwargs)
        found[cls.__name__] = None
        if cls.setup_context is Function.setup_context:
            return cls.forward(_Context((*args, *kwargs.values())), *args, **kwargs)
        given = inspect.signature(cls.forward).bind(*args, **kwargs)
        given.apply_defaults()
        output = cls.forward(*given.args, **given.kwargs)
        cls.setup_context(_Context(given.args), given.args, output)
        return output

    with applied_by(apply), custom_functions_noted(found):
        yield
