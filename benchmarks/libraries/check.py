"""Check one third-party network by both oracles, in float64 and at several batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.checks import Record, examine

from .networks import LibraryNetwork


@dataclass(frozen=True)
class LibraryTask:
    """A network to check, with the threads of PyTorch."""

    network: LibraryNetwork
    threads: int = 1

    @property
    def model(self) -> str:
        """The name of the network."""
        return self.network.name


def check(task: LibraryTask, record: Record) -> None:
    """Build a network and examine it."""
    torch.set_num_threads(task.threads)
    record(stage="build")
    model = task.network.build()
    record(parameters=sum(parameter.numel() for parameter in model.parameters()))
    example: Any = task.network.example()
    examine(model, example, record, depth="exact")
