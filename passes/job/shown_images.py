"""Choose some test images, and show what the wide and the narrow network say of them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxprune.passes.report import ShownImage

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader, Preprocessing

# Images in a report, how many of them at most are those whose class changes, and pixels of their longer side.
SHOWN, CHANGED, LONGEST = 12, 6, 96


def shown_images(
    test: Loader, wide: Tensor, narrow: Tensor, preprocessing: Preprocessing, *, labelled: bool = True
) -> tuple[ShownImage, ...]:
    """Show images whose class changes first, and others at even distances through all of them.

    Args:
        test: images and classes, in a fixed order.
        wide: class of each image, by the wide network, int64 [N].
        narrow: class of each image, by the narrow one, int64 [N].
        preprocessing: of the images.
        labelled: whether the loader's classes are true ones.
    """
    names, chosen = preprocessing.label_names, _chosen(wide != narrow)

    def name(number: Tensor) -> str:
        return names[int(number)] if int(number) < len(names) else str(int(number))

    shown, begin = [], 0
    for images, labels in test:
        for index in chosen[(chosen >= begin) & (chosen < begin + len(labels))].tolist():
            truth = name(labels[index - begin]) if labelled else ""
            png = _png(images[index - begin], preprocessing)
            shown.append(ShownImage(png, truth, name(wide[index]), name(narrow[index])))
        begin += len(labels)
        if len(shown) == len(chosen):
            break
    return tuple(shown)


def _chosen(changed: Tensor) -> Tensor:
    """Return the numbers of images to show, ascending."""
    first, others = changed.nonzero().flatten()[:CHANGED], (~changed).nonzero().flatten()
    spaced = torch.linspace(0, max(len(others) - 1, 0), min(SHOWN - len(first), len(others))).round().long()
    return torch.cat([first, others[spaced]]).sort().values


def _png(image: Tensor, preprocessing: Preprocessing) -> str:
    """Undo the normalisation of an image [C, H, W], and write it as PNG in base64."""
    from PIL import Image

    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    pixels = image.detach().cpu().float().nan_to_num() * std + mean
    pixels = pixels if len(pixels) == 3 else pixels[:1]
    low, high = pixels.min(), pixels.max()
    if low < -0.05 or high > 1.05:  # normalised in another way than the preprocessing says
        pixels = (pixels - low) / (high - low).clamp_min(1e-6)
    grid = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(grid[:, :, 0] if grid.shape[2] == 1 else grid)
    picture.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
