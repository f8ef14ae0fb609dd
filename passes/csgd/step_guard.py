"""A step of an optimizer that fails is undone at once, not by the next one."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

_SHARED = "_fxprune_guards"  # an attribute of a guarded step; a scheduler's wrapper of it has it too
Guard = tuple[Callable[[], None], Callable[[], None]]


def guard_steps(optimizer: Optimizer, prepare: Callable[[], None], undo: Callable[[], None]) -> Callable[[], None]:
    """Call ``prepare`` before the hooks of a step, ``undo`` if it fails; the result ends this.

    Hooks cannot do this: PyTorch calls none after an error, nor may one change their order. All guards of an optimizer
    share one wrapper of its step, so that they may end in any order.
    """
    shared: tuple[list[Guard], Callable[[], None]] | None = getattr(optimizer.step, _SHARED, None)
    guards, end = _guarded(optimizer) if shared is None else shared
    guard = (prepare, undo)
    guards.append(guard)

    def remove() -> None:
        guards.remove(guard)
        if not guards:
            end()

    return remove


def _guarded(optimizer: Optimizer) -> tuple[list[Guard], Callable[[], None]]:
    """Wrap the step of an optimizer; return its guards, and what takes the wrapper away again.

    A scheduler needs a bound method to wrap, and looks for its mark on it.
    """
    step: Callable[..., Any] = optimizer.step
    guards: list[Guard] = []

    @functools.wraps(step)
    def guarded(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
        for prepare, _undo in reversed(guards):
            prepare()
        try:
            return step(*args, **kwargs)
        except BaseException:
            for _prepare, undo in guards:
                undo()
            raise

    before = vars(optimizer).get("step")
    method = types.MethodType(guarded, optimizer)
    optimizer.step = method  # type: ignore[method-assign]

    def end() -> None:
        if vars(optimizer).get("step") is not method:  # a scheduler has wrapped it since
            return
        del optimizer.step
        if before is not None:
            optimizer.step = before  # type: ignore[method-assign]

    setattr(guarded, _SHARED, (guards, end))
    return guards, end
