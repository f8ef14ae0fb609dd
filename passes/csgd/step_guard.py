"""A step of an optimizer that fails is undone at once, not by the next one."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def guard_steps(optimizer: Optimizer, prepare: Callable[[], None], undo: Callable[[], None]) -> Callable[[], None]:
    """Call ``prepare`` before the hooks of a step, ``undo`` if it fails; the result ends this.

    Hooks cannot do this: PyTorch calls none after an error, nor may one change their order. A scheduler needs a bound
    method to wrap, and looks for its mark on it.
    """
    step: Callable[..., Any] = optimizer.step

    @functools.wraps(step)
    def guarded(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
        prepare()
        try:
            return step(*args, **kwargs)
        except BaseException:
            undo()
            raise

    before = vars(optimizer).get("step")
    method = types.MethodType(guarded, optimizer)
    optimizer.step = method  # type: ignore[method-assign]

    def remove() -> None:
        if vars(optimizer).get("step") is not method:  # a scheduler has wrapped it since
            return
        del optimizer.step
        if before is not None:
            optimizer.step = before  # type: ignore[method-assign]

    return remove
