"""Save and restore streams of random numbers, and keep one apart from the others."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from fxprune.common.random import seeded


class Stream:
    """A separate stream of random numbers on one device; torch draws from it inside the block.

    So the draws of a network, as for dropout, can differ between processes while those for the data are the same.
    """

    def __init__(self, device: torch.device, *seed: int) -> None:
        self._device = device
        with seeded(*seed):
            self.state = _read(device)
        self._outside = self.state

    def __enter__(self) -> None:
        self._outside = _read(self._device)
        _set(self._device, self.state)

    def __exit__(self, *exception: object) -> None:
        self.state = _read(self._device)
        _set(self._device, self._outside)


def _read(device: torch.device) -> torch.Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def read_streams() -> dict[str, Any]:
    """Read the random states of torch, NumPy and Python in a form that ``torch.save`` accepts."""
    kind, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
    }


def set_streams(streams: dict[str, Any]) -> None:
    """Restore the random states that :func:`read_streams` returned."""
    torch.set_rng_state(streams["torch"])
    if torch.cuda.is_available() and len(streams["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(streams["cuda"])
    kind, keys, *rest = streams["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
