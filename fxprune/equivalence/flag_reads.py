"""Watch whether a call can tell training from eval mode.

It can by the flag of any module, read by name or in the table of its attributes, or by what a ``train`` of its own did.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .recorder import Recorder

# They look up attributes of other names in the table of a module, and the records of a call are ours.
_OURS = ("fxprune.", "torch.nn.modules.module")


@contextlib.contextmanager
def flag_reads(runs: Sequence[Recorder]) -> Iterator[list[str]]:
    """Yield a list of reads of training flags, except inside of layers that are entries."""
    found: list[str] = []

    def read(module: nn.Module, name: str) -> Any:
        if name == "training" and not any(run.paused for run in runs):
            found.append(name)
        if name == "__dict__" and not _is_ours(sys._getframe(1).f_globals):
            found.append(name)
        return object.__getattribute__(module, name)

    nn.Module.__getattribute__ = read  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        del nn.Module.__getattribute__


def _is_ours(scope: dict[str, Any]) -> bool:
    return str(scope.get("__name__")).startswith(_OURS)


def tells_mode(network: nn.Module) -> bool:
    """Tell whether a network may learn that it trains from more than the reads that show."""
    return any(
        type(each).train is not nn.Module.train
        or "train" in vars(each)
        or type(each).__getattribute__ is not object.__getattribute__
        or isinstance(each, torch.jit.ScriptModule)
        for each in network.modules()
    )
