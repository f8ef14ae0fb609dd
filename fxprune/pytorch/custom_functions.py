"""Stand between a network and the custom autograd functions that it applies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.autograd import Function


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
