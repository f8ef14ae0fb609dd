"""DenseNet-40 for small images: each layer reads all earlier ones and adds 12 channels.

This is the plain form of the paper, without bottlenecks and without compression: 16 channels from the stem, three
stages of twelve layers, and between them transitions that keep the number of channels (160, then 304).

Source: Huang et al., "Densely Connected Convolutional Networks", 2017, sections 3 and 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 16
GROWTH = 12
LAYERS = 12
STAGES = 3


class DenseLayer(nn.Module):
    """``y = [x, conv(relu(bn(x)))]``, joined along channels."""

    def __init__(self, in_chans: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_chans)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(in_chans, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> [N, in_chans + growth, H, W]."""
        return torch.cat([x, self.conv(self.act(self.bn(x)))], 1)


class Transition(nn.Module):
    """``y = mean2x2(conv1x1(relu(bn(x))))``, as many channels as before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, channels, H / 2, W / 2], rounded down."""
        result: Tensor = self.pool(self.conv(self.act(self.bn(x))))
        return result


class CifarDenseNet(nn.Module):
    """Stem, three dense stages joined by transitions, global mean, one linear layer.

    Args:
        layers: dense layers per stage.
        num_classes: length of the output.
        in_chans: channels of the image.
        width: multiplier of the growth and of the stem.
    """

    def __init__(self, layers: int, *, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__()
        self.input_size = (in_chans, 32, 32)
        channels, growth = round(width * STEM), round(width * GROWTH)
        self.stem = nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)
        self.features = nn.Sequential()
        for stage in range(1, STAGES + 1):
            if stage > 1:
                self.features.add_module(f"transition{stage - 1}", Transition(channels))
            dense = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
            self.features.add_module(f"stage{stage}", dense)
            channels += layers * growth
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> [N, num_classes]."""
        x = self.act(self.bn(self.features(self.stem(x))))
        result: Tensor = self.fc(self.flatten(self.pool(x)))
        return result


def densenet40(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarDenseNet:
    """DenseNet-40 with growth 12: 3 stages of 12 layers, 2 transitions, stem and linear layer."""
    return CifarDenseNet(LAYERS, num_classes=num_classes, in_chans=in_chans, width=width)
