"""VGG-16 for small images: 13 convolutions with BatchNorm in five stages, one linear layer.

A max pool stands between stages. After the last stage comes a global mean instead, so that images of 28x28 pixels are
large enough. The two hidden linear layers of the original are left out: they would hold most weights at little use.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2014, table 1, configuration D.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVgg(nn.Module):
    """Five stages of 3x3 convolutions, max pools between them, global mean, one linear layer.

    Args:
        stages: channels of each convolution, stage by stage.
        num_classes: length of the output.
        in_chans: channels of the image.
        width: multiplier of all channels in ``stages``.
    """

    def __init__(
        self, stages: tuple[tuple[int, ...], ...], *, num_classes: int = 10, in_chans: int = 3, width: float = 1.0
    ) -> None:
        super().__init__()
        self.input_size = (in_chans, 32, 32)
        layers: list[tuple[str, nn.Module]] = []
        channels = in_chans
        for s, stage in enumerate(stages, start=1):
            if s > 1:
                layers.append((f"pool{s - 1}", nn.MaxPool2d(2)))
            for i, wide in enumerate(stage, start=1):
                layers.append((f"block{s}_{i}", _block(channels, channels := round(width * wide))))
        self.features = nn.Sequential(OrderedDict(layers))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_chans, H, W] -> [N, num_classes]."""
        result: Tensor = self.fc(self.flatten(self.pool(self.features(x))))
        return result


def vgg16_cifar(*, num_classes: int = 10, in_chans: int = 3, width: float = 1.0) -> CifarVgg:
    """VGG-16 with BatchNorm for small images."""
    return CifarVgg(STAGES, num_classes=num_classes, in_chans=in_chans, width=width)


def _block(in_chans: int, width: int) -> nn.Sequential:
    conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), act=nn.ReLU()))
