"""Stand between a network and the custom autograd functions that it applies."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from fxprune.common.threads import present_block
from fxprune.errors import CaptureError
from fxprune.pytorch.source import line_of

_now = threading.local()  # `of_constants`: whether this thread is in such a block


@contextlib.contextmanager
def applied_by(apply: Callable[..., Any]) -> Iterator[None]:
    """Replace ``Function.apply``; the function given gets it first, bound to the class."""
    given = vars(Function)["apply"]

    def replacement(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        return apply(given.__get__(None, cls), cls, *args, **kwargs)

    Function.apply = classmethod(replacement)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Function.apply = given  # type: ignore[method-assign]


@contextlib.contextmanager
def custom_functions_noted(found: dict[str, None]) -> Iterator[None]:
    """Add the name of each custom function that is called to ``found``.

    It is noted by its context, since a model may have kept its ``apply``.

    Raises:
        CaptureError: in the block, for a forward that asks which of its inputs need gradients.
    """
    refused: list[CaptureError] = []
    block = present_block()

    def note(context: Any) -> None:
        if getattr(_now, "of_constants", False):
            return
        if block.is_stranger():
            block.skips()
        else:
            found[_function_of(context)] = None

    def refuse(context: Any) -> Any:
        if getattr(_now, "of_constants", False) or block.is_stranger():
            return super(kind, context).needs_input_grad
        error = CaptureError(
            f"the torch.autograd.Function `{_function_of(context)}` asks which of its inputs need gradients at "
            f"{line_of(sys._getframe(1))}, which no graph records. Decide by an argument of the network instead."
        )
        refused.append(error)
        raise error

    kind: Any = BackwardCFunction
    kind.__init__, kind.needs_input_grad = note, property(refuse)
    try:
        yield
    finally:
        del kind.__init__, kind.needs_input_grad
    if refused:  # the model caught it
        raise refused[0]


@contextlib.contextmanager
def custom_functions_of_constants() -> Iterator[None]:
    """Note and refuse nothing: no tensor of the network, which may need a gradient, is an input."""
    before, _now.of_constants = getattr(_now, "of_constants", False), True
    try:
        yield
    finally:
        _now.of_constants = before


def _function_of(context: Any) -> str:
    """Name the function that a context is of."""
    return type(context).__name__.removesuffix("Backward")
