"""Folders of images for timm to read, and all images of a loader."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def whole(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def make_folder(root, train=("cat", "dog"), test=("cat", "dog"), test_name="val", size=(40, 32), each=3):
    """Folder of PNGs: each image is grey at a level of its own."""
    generator = np.random.default_rng(0)
    for split, classes in (("train", train), (test_name, test)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                Image.new("RGB", size, tuple(generator.integers(0, 256, 3).tolist())).save(
                    root / split / name / f"{i}.png"
                )
    return root


class GreyImages(torch.utils.data.Dataset):
    """Four grey images in two classes, as a data set of torchvision."""

    classes = ("a", "b")

    def __init__(self, **_):
        self.transform = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = Image.new("L", (28, 28), 51)
        return self.transform(image) if self.transform else image, index % 2
