"""Load data by name: packaged sets, folders of images or of IDX files, and what timm reads."""

import os
from pathlib import Path
from typing import Any

from fxprune.errors import DataError, OptionError
from fxprune.passes.options import Augment, Images, Options, with_options_of

from .dataset import Data
from .grey_images import data_in_memory
from .idx import idx_files, is_idx_folder, read_idx_folder
from .packages import PACKAGED, load_packaged
from .timm import TEST, TRAIN, load_timm


class _Named(Options, kw_only=False):
    name: str


class _Asked(Images, _Named):
    seed: int = 0
    root: str | Path | None = None


@with_options_of(_Asked)
def load_data(*name: str, **options: Any) -> Data:
    """Load data by name: a packaged set, a folder of images or of IDX files, or what timm reads.

    Args:
        name: ``digits``, ``mnist5k`` or ``fashion-mnist``; a folder with ``train/`` and ``val/`` (or ``validation/``),
            one sub-folder per class; a folder with four IDX files, as MNIST has them; or timm's name of a data set
            (``torch/cifar10``, ``hfds/...``).
        seed: of the split of ``digits`` and ``mnist5k``; the other data sets are split already.
        root: where timm looks for a data set, or stores it; None: ``~/.cache/fxprune``.
        **options: ``image_size`` (None: 32 for digits, 28 for mnist5k and fashion-mnist, the side of images in IDX
            files, else the shorter side of the first image, at most 224), ``in_chans`` (images are converted; None: as
            they are, in colour those of a folder), ``batch_size``, ``workers``, and augmentation, which packaged sets
            and IDX files do not take; all of :class:`fxprune.passes.options.augment.Images`.

    Raises:
        DataError: no such data exist, a package that reads them is missing, or the two splits differ in classes.
        OptionError: a size below its minimum, or an augmentation that timm does not have or these data do not take.
    """
    asked = _Asked(*name, **options)
    images, folder = asked.only_of(Images), Path(asked.name)
    if not asked.name.strip():
        raise DataError("the name of the data is empty; the current folder is `.`.")
    packaged = asked.name in PACKAGED
    if packaged or is_idx_folder(folder):
        if augment := [option for option, value in vars(asked.only_of(Augment)).items() if value]:
            raise OptionError(f"{', '.join(augment)}: for images that timm reads, not for `{asked.name}`.")
        if packaged:
            return load_packaged(asked.name, images, asked.seed)
        splits = read_idx_folder(folder)
        return data_in_memory(asked.name, splits, images, image_size=images.image_size or splits[0].images.shape[1])
    root = Path.home() / ".cache" / "fxprune" if asked.root is None else Path(asked.root)
    return load_timm(asked.name, images, root)


def names_and_sizes(folder: Path) -> list[str]:
    """List the path and size of every file that :func:`load_data` may read in a folder.

    Other files there, as the results of a job, do not count; hidden ones neither.
    """
    found = [*map(str, idx_files(folder).values())]
    for split in (*TRAIN, *TEST):
        for place, folders, files in os.walk(folder / split, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [os.path.join(place, name) for name in files if not name.startswith(".")]
    return sorted(f"{os.path.relpath(path, folder)} {os.path.getsize(path)}" for path in found if os.path.exists(path))
