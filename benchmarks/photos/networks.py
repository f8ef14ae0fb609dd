"""List the networks with weights of ImageNet: how each is built, and how it takes photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from .packages import lite0_weights, mobilenet_weights
from .settings import PhotoSettings


@dataclass(frozen=True)
class PhotoNetwork:
    """A network of the benchmark.

    Attributes:
        label: what the page calls it.
        build: makes it with weights of its own.
        weights: finds the file with those of ImageNet.
        inner: patterns of the weights that make the channels inside of blocks.
        mean: of the pixels of a photo, 0 to 1, by channel.
        std: of the same.
    """

    label: str
    build: Callable[[PhotoSettings], nn.Module]
    weights: Callable[[], Path]
    inner: Sequence[str]
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def wide(self, settings: PhotoSettings) -> nn.Module:
        """Return it with its weights of ImageNet, which are in its order under any names."""
        network = self.build(settings)
        found = torch.load(self.weights(), map_location="cpu", weights_only=True)
        network.load_state_dict(dict(zip(network.state_dict(), found.values(), strict=True)))
        return network.eval()


# Between the two 1x1 convolutions of each block. The second network's weights come from TensorFlow.
NETWORKS: Mapping[str, PhotoNetwork] = {
    "mobilenetv2": PhotoNetwork(
        "MobileNetV2",
        lambda settings: mobilenet_v2(width_mult=settings.width),
        mobilenet_weights,
        ("features.*.conv.0.0.weight",),
    ),
    "lite0": PhotoNetwork(
        "EfficientNet-Lite0",
        lambda settings: timm.create_model("tf_efficientnet_lite0"),
        lite0_weights,
        ("blocks.*.conv_pw.weight",),
        *((127 / 255,) * 3, (128 / 255,) * 3),
    ),
}
