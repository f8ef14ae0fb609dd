"""Declare the options of images and their augmentation, most by timm's names, without torch."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from .ranges import Count, Pixels, Range, Share, interval, is_pair
from .record import Options


class Augment(Options):
    """The options of timm's augmentation; timm itself checks the name of the policy."""

    heading = "images that timm reads"

    auto_augment: Annotated[str | None, "timm's name of a policy for training images, such as rand-m9-mstd0.5"] = None
    random_erasing: Annotated[Share, "share of training images to erase a part of"] = 0.0
    hflip: Annotated[
        float | None, interval(ge=0, le=1), "share of training images to mirror left to right; default: 0.5"
    ] = None
    vflip: Annotated[Share, "share of training images to mirror upside down"] = 0.0
    crop_scale: Annotated[
        Sequence[float] | None,
        Range("two shares above 0 and up to 1, the lower one first", partial(is_pair, most=1.0)),
        "least and largest share of the area to crop from a training image; default: 0.08 1, or 0.7 1 for images of up "
        "to 64 pixels per side",
    ] = None
    crop_ratio: Annotated[
        Sequence[float] | None,
        Range("two ratios above 0, the lower one first", is_pair),
        "least and largest width over height of that crop; default: 0.75 1.33, or 0.9 1.1 for images of up to 64 "
        "pixels per side",
    ] = None
    color_jitter: Annotated[
        float | None,
        interval(ge=0),
        "largest change of brightness, contrast and saturation of training images, as a share; of the policies only 3a "
        "uses it; default: 0.4, or 0 for images that are grey or of up to 64 pixels per side",
    ] = None
    crop_pct: Annotated[
        float | None,
        interval(gt=0, le=1, noun="a share"),
        "share of the side of a test image to crop from its middle; default: 0.875, or 1 for images of up to 64 pixels "
        "per side",
    ] = None


class Batches(Options):
    """The options by which images become batches."""

    heading = "data and machine"

    image_size: Annotated[Pixels, "height and width of the images in pixels; default: what suits the data"] = None
    batch_size: Annotated[int, interval(ge=2), "images per batch"] = 64
    workers: Annotated[int, interval(ge=0), "processes that decode images"] = 0


class Images(Batches, Augment):
    """The options of images to train on and to test with."""

    in_chans: Annotated[
        Count,
        "channels of the images: 1 makes coloured ones grey, 3 repeats grey ones; default: those of the data, and 3 "
        "for a folder of images",
    ] = None
