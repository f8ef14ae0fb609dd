"""Stand between a network and the custom autograd functions that it applies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd import Function
from torch.autograd.function import BackwardCFunction

from fxprune.errors import CaptureError


@contextlib.contextmanager
def applied_by(apply: Callable[..., Any]) -> Iterator[None]:
    """Replace ``Function.apply``; the function given gets it first, bound to the class."""
    given = vars(Function)["apply"]

    def replacement(cls: Any, *args: Any, **kwargs: Any) -> Any:
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

    def note(context: Any) -> None:
        found[_function_of(context)] = None

    def refuse(context: Any) -> Any:
        raise CaptureError(
            f"the forward of the torch.autograd.Function `{_function_of(context)}` asks which of its inputs need "
            "gradients, which no graph records. Decide by an argument of the network instead."
        )

    kind: Any = BackwardCFunction
    kind.__init__, kind.needs_input_grad = note, property(refuse)
    try:
        yield
    finally:
        del kind.__init__, kind.needs_input_grad


def _function_of(context: Any) -> str:
    """Name the function that a context is of."""
    return type(context).__name__.removesuffix("Backward")
