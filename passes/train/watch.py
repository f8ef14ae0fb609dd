"""A loss that is no longer a number stops the training, and no step waits for the device to find out."""

from __future__ import annotations

import torch
from torch import Tensor

# The device is asked this often; it keeps the first bad step itself, so that the step is named all the same.
CPU_EVERY, EVERY = 1, 32


class LossWatch:
    """Remembers, on the device, the first step whose loss is not finite."""

    def __init__(self, device: torch.device) -> None:
        self._every = CPU_EVERY if device.type == "cpu" else EVERY
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._value = torch.zeros((), device=device)
        self._seen = 0

    def see(self, loss: Tensor, step: int) -> tuple[int, float] | None:
        """Note the loss of a step; every few steps, return what :meth:`look` does."""
        bad = (self._first < 0) & ~loss.isfinite()
        self._first = torch.where(bad, step, self._first)
        self._value = torch.where(bad, loss, self._value)
        self._seen += 1
        return self.look() if self._seen % self._every == 0 else None

    def look(self) -> tuple[int, float] | None:
        """First step with a loss that is not finite, and that loss; waits for the device."""
        first = int(self._first)
        return (first, float(self._value)) if first >= 0 else None
