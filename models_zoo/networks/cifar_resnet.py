"""Residual networks for small images: 6n+2 layers in three stages of 16, 32 and 64 channels.

All blocks are basic blocks, also in ResNet-164 (n = 27), and a shortcut that changes its width is a 1x1 convolution. At
5/8 of every width these networks lose 60.85, 60.89 and 60.91 % of their multiply-accumulates (n = 9, 18, 27), the
figures of the C-SGD paper (Ding et al., CVPR 2019, table 1). A parameter-free shortcut gives the same figures, but its
zero padding ties the stages together, so that their widths could not be chosen independently. Bottleneck blocks give
60.89 % for 164 layers.

Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """``y = relu(x' + bn2(conv2(relu(bn1(conv1(x))))))``, x' = x or a 1x1 projection of x."""

    def __init__(self, in_chans: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _projection(in_chans, width, stride) if stride != 1 or in_chans != width else nn.Identity()
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> [N, width, H / stride, W / stride], rounded up."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        result: Tensor = self.act2(y + self.shortcut(x))
        return result


class CifarResNet(nn.Module):
    """Stem, three stages of n basic blocks, global mean, one linear layer: 6n + 2 layers.

    Args:
        blocks: n, the number of blocks per stage.
        num_classes: length of the output.
        in_chans: channels of the image.
        width: multiplier of the 16, 32 and 64 channels of the stages.
    """

    def __init__(self, blocks: int, *, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__()
        stem, *_, last = widths = [round(width * channels) for channels in WIDTHS]
        self.input_size = (in_chans, 32, 32)
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU()
        self.stage1 = _stage(blocks, stem, widths[0], stride=1)
        self.stage2 = _stage(blocks, widths[0], widths[1], stride=2)
        self.stage3 = _stage(blocks, widths[1], widths[2], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> [N, num_classes]."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        result: Tensor = self.fc(self.flatten(self.pool(x)))
        return result


def resnet20(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarResNet:
    """ResNet-20: n = 3."""
    return CifarResNet(3, num_classes=num_classes, in_chans=in_chans, width=width)


def resnet56(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarResNet:
    """ResNet-56: n = 9."""
    return CifarResNet(9, num_classes=num_classes, in_chans=in_chans, width=width)


def resnet110(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarResNet:
    """ResNet-110: n = 18."""
    return CifarResNet(18, num_classes=num_classes, in_chans=in_chans, width=width)


def resnet164(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarResNet:
    """ResNet-164: n = 27."""
    return CifarResNet(27, num_classes=num_classes, in_chans=in_chans, width=width)


def _stage(blocks: int, in_chans: int, width: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_chans, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


def _projection(in_chans: int, width: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_chans, width, 1, stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width)))
