"""Describe the preprocessing of a network's images and its class names, in timm's terms."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fxprune.common.documents import check_fields
from fxprune.errors import CheckpointError

if TYPE_CHECKING:
    from .dataset import Data


@dataclass(frozen=True)
class Preprocessing:
    """input = (pixels of 0 to 1 - mean) / std, after an image is resized and cropped.

    Attributes:
        input_size: channels, height, width.
        mean: per channel.
        std: per channel.
        crop_pct: side of the centre crop over the side of the resized image; None: unknown.
        interpolation: method by which it is resized; None: unknown.
        label_names: names of the classes by number; empty: they have only numbers.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float | None = None
    interpolation: str | None = None
    label_names: tuple[str, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Format each attribute as JSON text for the metadata of an ONNX file."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}


def preprocessing_of(data: Data) -> Preprocessing | None:
    """Return the preprocessing of a data set's images; None for other inputs."""
    if not data.image_size:
        return None
    size = (data.in_chans, data.image_size, data.image_size)
    return Preprocessing(size, data.mean, data.std, data.crop_pct, data.interpolation, data.classes)


def preprocessing_for(config: Mapping[str, Any], input_size: tuple[int, int, int]) -> Preprocessing:
    """Return the preprocessing that a network's published weights expect."""
    from timm.data import resolve_data_config

    found = resolve_data_config({"input_size": input_size}, pretrained_cfg=dict(config))
    mean, std = (tuple(map(float, found[name])) for name in ("mean", "std"))
    if len(mean) != input_size[0]:
        mean, std = ((0.5,) * input_size[0],) * 2
    return Preprocessing(input_size, mean, std, float(found["crop_pct"]), str(found["interpolation"]))


def preprocessing_from(value: Mapping[str, Any], where: str | os.PathLike[str]) -> Preprocessing:
    """Read a preprocessing from the JSON of ``asdict``.

    Raises:
        CheckpointError: the JSON is something else.
    """
    kinds: dict[str, tuple[type, ...]] = {
        "input_size": (list,),
        "mean": (list,),
        "std": (list,),
        "crop_pct": (int, float, type(None)),
        "interpolation": (str, type(None)),
        "label_names": (list,),
    }
    check_fields(value, kinds, where, CheckpointError)
    size, mean, std, names = (value[name] for name in ("input_size", "mean", "std", "label_names"))
    sound = len(size) == 3 and all(type(n) is int and 0 < n <= 1 << 16 for n in size)
    sound = sound and all(type(x) in (int, float) for x in (*mean, *std)) and all(x > 0 for x in std)
    if not sound or not len(mean) == len(std) == size[0] or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{os.fspath(where)} is damaged: `preprocessing` cannot be. Save the network again.")
    return Preprocessing(tuple(size), tuple(mean), tuple(std), value["crop_pct"], value["interpolation"], tuple(names))
