"""Trace into custom autograd functions: PyTorch would read a proxy as if it were a tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx
from torch.autograd import Function

from fxprune.pytorch.torch_private import pytree


class _Context:
    """The context of a forward whose backward never runs."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (False,) * count

    def save_for_backward(self, *tensors: Any) -> None:
        """Save nothing."""

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_backward


# Of a graph: classes with a gradient of their own, which it computes by their forward alone.
CUSTOM_GRADIENTS = "fxprune_custom_gradients"


@contextlib.contextmanager
def custom_functions_traced(found: dict[str, None]) -> Iterator[None]:
    """Call the forward of a custom function that gets a proxy; add its name to ``found``."""

    def apply(call: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            return call(*args, **kwargs)
        found[cls.__qualname__] = None
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(len(args)), *args, **kwargs)

    with _applied_by(apply):
        yield


@contextlib.contextmanager
def custom_functions_noted(found: dict[str, None]) -> Iterator[None]:
    """Add the name of each custom function that is called to ``found``."""

    def apply(call: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        found[cls.__qualname__] = None
        return call(*args, **kwargs)

    with _applied_by(apply):
        yield


@contextlib.contextmanager
def _applied_by(apply: Callable[..., Any]) -> Iterator[None]:
    """Replace ``Function.apply``; the function given gets it first, bound to the class."""
    given = vars(Function)["apply"]

    def replacement(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return apply(given.__get__(None, cls), cls, *args, **kwargs)

    Function.apply = classmethod(replacement)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Function.apply = given  # type: ignore[method-assign]
