"""A layer whose attributes state its width has the same width in all its calls."""

from __future__ import annotations

from typing import Any

import torch

from .channels import Channels
from .labels import Label, Labels, tensors_in
from .marks import Marks


class LayerInputs:
    """The inputs of each layer with shape attributes, call by call.

    Attributes:
        found: name of a layer -> (sizes, label) of its input, for each call.
        inside: names of the layers that are running, the innermost last; the rewrite adapts their attributes.
        paused: calls are trials, and are not recorded.
    """

    def __init__(self, channels: Channels, labels: Labels, marks: Marks) -> None:
        self.found: dict[str, list[tuple[torch.Size, Label]]] = {}
        self.inside: list[str] = []
        self.paused = False
        self._channels, self._labels, self._marks = channels, labels, marks

    def enter(self, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call of a layer; unify the channels of its input with those of its last call."""
        self.inside.append(layer)
        if self.paused:
            return
        given = tensors_in((args, kwargs))[0]
        label = self._labels.of(given)
        for sizes, earlier in self.found.get(layer, [])[-1:]:
            # One layer has one width, even if it has no weight that ties its inputs.
            front = range(1, min(len(sizes), given.dim()))
            back = () if len(sizes) == given.dim() else range(-1, -len(front) - 1, -1)
            for dim in (*front, *back):
                before = self._labels.met(label.axes[dim], earlier, dim)
                now = self._labels.met(earlier.axes[dim], label, dim)
                if sizes[dim] != given.shape[dim]:
                    continue
                if before is not None and now is not None:
                    self._channels.unite(before, now)
                else:
                    self._marks.freeze(f"`{layer}` also reads positions without channels", before, now)
        self.found.setdefault(layer, []).append((given.shape, label))

    def leave(self) -> None:
        """Record the end of the innermost layer's call."""
        self.inside.pop()
