"""Trace into custom autograd functions: PyTorch would read a proxy as if it were a tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import fx
from torch.autograd import Function

from fxprune.common.torch_private import pytree


class _Context:
    """The context of a forward whose backward never runs."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (False,) * count

    def save_for_backward(self, *tensors: Any) -> None:
        """Save nothing."""

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_backward


@contextlib.contextmanager
def custom_functions_traced() -> Iterator[None]:
    """Call the forward of a custom function itself where it gets a proxy."""
    given = vars(Function)["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            return given.__get__(None, cls)(*args, **kwargs)
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*args, **kwargs)
        return cls.forward(_Context(len(args)), *args, **kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Function.apply = given  # type: ignore[method-assign]
