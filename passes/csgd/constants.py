"""Constants, such as those of a frozen normalisation, are pulled without a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fxprune.passes.merge import Clusters, project


class Constants:
    """Buffers that the pull alone makes equal.

    What the network writes itself, such as running statistics of a normalisation of the user's own, is no constant: a
    buffer that has changed since the last pull is left as it is in that step. Buffers need not be in a state dict of
    the model, so that :meth:`state_dict` holds them.
    """

    def __init__(self, buffers: Mapping[str, tuple[Tensor, list[Clusters]]]) -> None:
        """Note the values of tied buffers, by name."""
        self._buffers = buffers
        self._last = self.state_dict()

    @torch.no_grad()
    def pull(self, share: float) -> None:
        """Move every constant towards the means of its clusters by a share of the way."""
        for name, (buffer, cuts) in self._buffers.items():
            if torch.equal(buffer, self._last[name]):
                buffer.lerp_(project(buffer, cuts), share)
        self._last = self.state_dict()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of all values by name."""
        return {name: buffer.clone() for name, (buffer, _) in self._buffers.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a :meth:`state_dict`."""
        for name, (buffer, _) in self._buffers.items():
            if name in state:
                buffer.copy_(state[name])
        self._last = self.state_dict()
