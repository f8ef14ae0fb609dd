"""Find questions about how a tensor came about: what made it, who wrote to it.

A graph of operators, as an export is, answers them once and for all.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.source import is_machinery, line_of
from fxprune.pytorch.torch_private import HISTORY

from .meta_run import asked

_ASKED = frozenset({
    "data_ptr", "grad", "grad_fn", "is_inference", "is_leaf", "output_nr", "requires_grad", "retains_grad", "storage",
    "untyped_storage", *HISTORY,
})  # fmt: skip


class HistoryQuestions(TorchFunctionMode):
    """A mode that notes the first such question of a model.

    Attributes:
        found: it, with its line; empty if there is none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = ""

    @contextlib.contextmanager
    def recording(self, _: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Note those of one call, as a context of :func:`~fxprune.equivalence.observation.observe`."""
        with self:
            yield lambda _: None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.found and args and isinstance(args[0], Tensor):
            name, asker = asked(func, sys._getframe(1))
            if name in _ASKED and not is_machinery(asker.f_code.co_filename):
                self.found = f"`{name}` at {line_of(asker)}"
        return func(*args, **(kwargs or {}))
