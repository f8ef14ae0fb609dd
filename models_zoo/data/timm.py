"""Load data that timm reads: a folder of images, ``torch/NAME``, ``hfds/NAME``.

The first training image determines the size and the number of channels that are not given; images of a folder are
coloured.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxprune.common.choices import closest
from fxprune.common.documents import check_value
from fxprune.errors import DataError, OptionError, kind_and_line
from fxprune.passes.options import Augment, Images

from .dataset import Data, Loader
from .packages import PACKAGED
from .pixels import mode_of

TRAIN = ("train", "training")
TEST = ("val", "validation", "valid", "eval", "test")
PREFIXES = ("torch/", "hfds/")  # of timm's names
LARGEST = 224
# Up to this many pixels per side, the object fills the picture: no cropping to test, little cropping to train.
SMALL = 64
# Our name of an option -> timm's name, if they differ.
TIMM: Mapping[str, str] = {"random_erasing": "re_prob", "crop_scale": "scale", "crop_ratio": "ratio"}


def load_timm(name: str, images: Images, root: Path) -> Data:
    """Make loaders by ``timm.data.create_dataset`` and ``create_loader``.

    Both splits must have the same classes.

    Args:
        name: a folder, or timm's name of a data set.
        images: size, by default the shorter side of the first image, at most 224; channels, to which images are
            converted; batch size, at most the number of training images; and augmentation, by default one that suits
            images of that size.
        root: where timm looks for a named data set, or stores it.

    Raises:
        DataError: a folder or data set that is missing, empty or unreadable, or whose two splits differ in classes.
        OptionError: timm has no such policy of augmentation, or no image has so many channels.
    """
    from timm.data import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_loader

    _check_policy(images.auto_augment)
    is_folder = Path(name).is_dir() or not name.startswith(PREFIXES)
    mode = None if images.in_chans is None else mode_of(images.in_chans)
    train, test = _folders(Path(name), mode) if is_folder else _named(name, root, mode)
    classes = _classes(name, train)
    _compare(name, classes, _classes(name, test))
    image = _first_image(name, train)
    size = images.image_size or min(LARGEST, *image.size)
    grey = len(image.getbands()) == 1
    mean, std = ((0.5,), (0.5,)) if grey else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

    more = _augmentation(images, size, grey=grey)

    def loader(dataset: Any, *, training: bool) -> Loader:
        made: Loader = create_loader(
            dataset,
            input_size=(len(mean), size, size),
            batch_size=min(images.batch_size, len(train)),
            is_training=training,
            mean=tuple(mean),
            std=tuple(std),
            num_workers=images.workers,
            use_prefetcher=False,
            persistent_workers=False,  # so that what they draw follows from the epoch's seed, not from earlier epochs
            **more,
        )
        return made

    plain = copy.copy(train)  # a loader writes its transform into the data set
    loader(plain, training=False)
    return Data(
        name=name,
        num_classes=len(classes),
        in_chans=len(mean),
        image_size=size,
        train=loader(train, training=True),
        test=loader(test, training=False),
        mean=tuple(mean),
        std=tuple(std),
        classes=tuple(classes),
        crop_pct=more.get("crop_pct", DEFAULT_CROP_PCT),
        interpolation="bilinear",
        plain=plain,
    )


def _augmentation(images: Images, size: int, *, grey: bool) -> dict[str, Any]:
    """Return timm's arguments for the given options, or defaults for images of that size."""
    gentle = {"scale": (0.7, 1.0), "ratio": (0.9, 1.1), "color_jitter": 0.0, "crop_pct": 1.0} if size <= SMALL else {}
    if grey:
        gentle["color_jitter"] = 0.0  # grey has no colour
    asked = vars(images.only_of(Augment))
    return gentle | {TIMM.get(name, name): value for name, value in asked.items() if value is not None}


def _check_policy(name: str | None) -> None:
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    if name is None:
        return
    _spare_posterize()
    by_prefix = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    make = next((make for prefix, make in by_prefix.items() if name.startswith(prefix)), auto_augment_transform)
    try:
        make(name, {"translate_const": 10, "img_mean": (0, 0, 0)})
    except Exception as error:  # timm raises different exceptions for different wrong names
        raise OptionError(
            f"timm has no policy `{name}` for auto_augment ({type(error).__name__}: {error}): take one as "
            "`rand-m9-mstd0.5`, `augmix-m5-w4`, `original` or `3a`."
        ) from error


def _spare_posterize() -> None:
    """Clamp timm's posterize to at least 1 bit if Pillow rejects 0."""
    from PIL import Image
    from timm.data import auto_augment

    try:
        auto_augment.posterize(Image.new("L", (1, 1)), 0)
    except ValueError:
        # At one end of its range timm asks for 0 bits: Pillow made a black picture; since 13 it raises an error.
        names = [name for name, op in auto_augment.NAME_TO_OP.items() if op is auto_augment.posterize]
        auto_augment.NAME_TO_OP.update(dict.fromkeys(names, _posterize))


def _posterize(image: Any, bits: int, **more: Any) -> Any:
    from timm.data.auto_augment import posterize

    return posterize(image, max(1, bits), **more)


def _folders(root: Path, mode: str | None) -> tuple[Any, Any]:
    from timm.data import create_dataset

    from .decoding import strict

    if not root.is_dir():
        raise DataError(
            f"there is no data called `{root}`: it is neither `digits` nor `mnist5k` nor `fashion-mnist`, and no "
            f"such folder exists (looked for {root.absolute()}). Also possible are `torch/NAME` and `hfds/NAME`."
            f"{closest(str(root), PACKAGED)}"
        )
    found = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    datasets = []
    for splits in (TRAIN, TEST):
        split = next((split for split in splits if split in found), None)
        if split is None:
            others = f"only {_some(found)}" if found else "and no other either"
            raise DataError(
                f"{root} has no sub-folder {' or '.join(f'`{s}`' for s in splits)}, {others}: "
                "put the images into `train/CLASS/` and `val/CLASS/`."
            )
        try:
            datasets.append(strict(create_dataset("", root=str(root / split), search_split=False), mode))
        except RuntimeError as error:
            raise DataError(f"there are no images in {root / split}: {error}") from error
        except ValueError as error:  # a superscript is no digit of the numbers by which timm sorts names
            raise DataError(f"timm cannot sort the names in {root / split}: {error}. Rename these.") from error
        _check_order(root / split, datasets[-1].reader.class_to_idx)
    return datasets[0], datasets[1]


def _check_order(folder: Path, classes: Collection[str]) -> None:
    """Raise DataError for classes that timm numbers differently in each process."""
    from timm.utils.misc import natural_key

    try:
        check_value(list(classes))
    except ValueError as error:
        raise DataError(f"a class in {folder} has a name that no result can hold: {error}. Rename it.") from error
    if "" in classes:
        raise DataError(f"{folder} holds images outside of the folders of classes: put them into {folder}/CLASS/.")
    by_key: dict[str, str] = {}
    for name in sorted(classes):
        other = by_key.setdefault(str(natural_key(name)), name)
        if other != name:
            raise DataError(
                f"the classes `{other}` and `{name}` of {folder} have no order: they differ in capitals or leading "
                "zeros only. Rename one of them."
            )


def _named(name: str, root: Path, mode: str | None) -> tuple[Any, Any]:
    """Load the training split, and the test split under the first name that the data set knows."""
    root.mkdir(parents=True, exist_ok=True)
    train = _create(name, root, ["train"], mode)
    return train, _create(name, root, ["validation", "test"], mode)


def _create(name: str, root: Path, splits: Sequence[str], mode: str | None) -> Any:
    from timm.data import create_dataset

    from .decoding import strict

    # only torchvision's data sets have an argument for the download
    download = {"download": True} if name.startswith("torch/") else {}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # readers print what they download, and what they lack
            return strict(create_dataset(name, root=str(root), split=splits[0], **download), mode)
    except ModuleNotFoundError as error:
        raise DataError(
            f"cannot read `{name}`: it needs the package {error.name}: `pip install {error.name}`."
        ) from error
    except ValueError as error:  # the hub raises this for a split that a data set does not have
        if len(splits) > 1:
            return _create(name, root, splits[1:], mode)
        raise DataError(f"cannot read `{name}`: {error}") from error
    except Exception as error:  # torchvision, the hub's reader and timm may raise any exception
        raise DataError(
            f"cannot read `{name}` into {root}: {kind_and_line(error).rstrip('.')}. "
            "Check the name and the network connection."
        ) from error


def _classes(name: str, dataset: Any) -> list[str]:
    """List the names of the classes by number.

    timm's readers hold a map class -> number, torchvision's data sets a list.
    """
    numbers = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    classes: Iterable[Any] = sorted(numbers, key=numbers.__getitem__) if numbers else getattr(dataset, "classes", ())
    if not (names := [str(label) for label in classes]):
        raise DataError(f"`{name}` does not say which classes it has, so that no network can be built for it.")
    return names


def _compare(name: str, train: list[str], test: list[str]) -> None:
    if train == test:
        if len(train) == 1:
            raise DataError(f"`{name}` has one class only, `{train[0]}`: a classifier needs two or more.")
        return
    lost, extra = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    raise DataError(
        f"the classes of `{name}` differ: {len(train)} to train, {len(test)} to test; "
        f"only to train: {_some(lost)}; only to test: {_some(extra)}. "
        "Both need the same classes, none without images."
    )


def _some(names: list[str]) -> str:
    return (", ".join(names[:5]) + (", ..." if len(names) > 5 else "")) or "none"


def _first_image(name: str, dataset: Any) -> Any:
    try:
        return dataset[0][0]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"the first image of `{name}` cannot be read: {error}") from error
