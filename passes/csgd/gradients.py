"""The optimizer sees mean gradients; after the step the given ones come back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GivenGradients:
    """Gradients that others stand in for during a step, so that a step that fails changes none."""

    def __init__(self) -> None:
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def replace(self, means: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """Put a mean gradient into the place of the gradient of each parameter."""
        for parameter, mean in means:
            given = parameter.grad
            assert given is not None
            if mean.stride() != given.stride():  # fused steps count on the layout
                mean = torch.empty_like(given).copy_(mean)
            self._held.append((parameter, given, mean))
            parameter.grad = mean

    def give_back(self) -> None:
        """Put the given gradients back, but for those that somebody has removed or replaced since."""
        for parameter, given, mean in self._held:
            if parameter.grad is mean:
                parameter.grad = given
        self._held = []
