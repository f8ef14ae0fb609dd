"""Constants, such as those of a frozen normalisation, are pulled without a gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fxprune.passes.merge import Clusters, project


class Constants:
    """Buffers that the pull alone makes equal.

    What the network writes itself, such as running statistics of a normalisation of the user's own, is no constant: a
    buffer that has changed since the last pull is left as it is in that step. Small pulls of a buffer of 16 bits add up
    in float32. Buffers need not be in a state dict of the model, so that :meth:`state_dict` holds them.
    """

    def __init__(self, model: nn.Module, clusters: Mapping[str, list[Clusters]]) -> None:
        """Note the values of tied buffers by name; the model may replace the tensor."""
        self._model, self._clusters = model, clusters
        self._values = {name: _precise(model.get_buffer(name)) for name in clusters}

    @torch.no_grad()
    def pull(self, share: float) -> None:
        """Move every constant towards the means of its clusters by a share of the way."""
        for name, cuts in self._clusters.items():
            buffer, value = self._model.get_buffer(name), self._values[name]
            if buffer.shape == value.shape and torch.equal(buffer, value.to(buffer.dtype)):
                buffer.copy_(value.lerp_(project(value, cuts), share))
            else:
                self._values[name] = _precise(buffer)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of all values by name."""
        return {name: value.clone() for name, value in self._values.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a :meth:`state_dict`."""
        for name, value in self._values.items():
            if name in state:
                self._model.get_buffer(name).copy_(value.copy_(state[name]))


def _precise(buffer: Tensor) -> Tensor:
    """Copy a tensor, in float32 at least."""
    return buffer.detach().to(torch.promote_types(buffer.dtype, torch.float32), copy=True)
