"""Read IDX files, the format of MNIST and its successors, plain or compressed by gzip.

A file is two zero bytes, a byte for the type, a byte for the number of axes, each length as four bytes, then the
numbers; the most significant byte comes first. (LeCun, Cortes, Burges, "The MNIST database of handwritten digits".)
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fxprune.errors import DataError

from .grey_images import GreyImages

TYPES: Mapping[int, str] = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")
_CHUNK = 1 << 20


def read_idx(path: Path) -> NDArray[Any]:
    """Return the numbers of a file, in the byte order of this machine.

    Raises:
        DataError: the file cannot be read, is no IDX file, or holds another number of numbers than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {type(error).__name__}: {error}. Get the file again.") from error


def _read(file: BinaryIO | gzip.GzipFile, path: Path) -> NDArray[Any]:
    head = file.read(4)
    kind = TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
    if kind is None or not head[3]:
        raise DataError(f"{path} is no IDX file: it begins with the bytes {head.hex(' ') or '(none)'}.")
    lengths, kept = file.read(4 * head[3]), np.dtype(kind)
    shape = [int.from_bytes(lengths[i : i + 4]) for i in range(0, len(lengths), 4)]
    wanted = kept.itemsize * math.prod(shape)
    body = bytearray()
    while len(body) <= wanted and (chunk := file.read(_CHUNK)):
        body += chunk
    if len(lengths) < 4 * head[3] or len(body) != wanted:
        found = "more" if len(body) > wanted else f"{len(body):,}"
        raise DataError(
            f"{path} is damaged: its head says {head[3]} axes of lengths {shape}, which are {wanted:,} bytes, and it "
            f"holds {found}. Get the file again."
        )
    return np.frombuffer(bytes(body), kept).reshape(shape).astype(kept.newbyteorder("="))


def is_idx_folder(folder: Path) -> bool:
    """Return whether a folder holds a file with one of the usual names of IDX files."""
    return folder.is_dir() and bool(idx_files(folder))


def read_idx_folder(folder: Path) -> tuple[GreyImages, GreyImages]:
    """Read the images to train and to test from four files with their usual names.

    They are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same with ``t10k`` or ``test``, each with
    or without ``.gz``.

    Raises:
        DataError: a file is missing or damaged, or the four do not fit together.
    """
    files = idx_files(folder)
    test = "t10k" if ("t10k", "images") in files else "test"
    keys = [(split, what) for split in ("train", test) for what in ("images", "labels")]
    missing = [f"{s}-{what}-idx{3 if what == 'images' else 1}-ubyte" for s, what in keys if (s, what) not in files]
    if missing:
        raise DataError(f"{folder} holds IDX files, but not {', '.join(missing)}, with or without `.gz`.")
    train, tested = (_grey(files[split, "images"], files[split, "labels"]) for split in ("train", test))
    if train.images.shape[1:] != tested.images.shape[1:]:
        height, width = tested.images.shape[1:]
        raise DataError(f"the images of {folder} differ: {_size(train)} to train, {height}x{width} to test.")
    most, most_tested = int(train.labels.max()), int(tested.labels.max())
    if most_tested > most:
        raise DataError(f"the classes of {folder} differ: up to {most} to train, up to {most_tested} to test.")
    if not train.images.min() < train.images.max():
        raise DataError(f"all pixels of {files['train', 'images']} are alike: there is nothing to learn.")
    return train, tested


def _grey(images: Path, labels: Path) -> GreyImages:
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[1] != pixels.shape[2] or not pixels.size:
        raise DataError(
            f"{images} holds {pixels.dtype} {list(pixels.shape)}: it must be square images of bytes, uint8 [N, S, S]."
        )
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu":
        raise DataError(
            f"{labels} holds {classes.dtype} {list(classes.shape)}: it must be one class for each of the "
            f"{len(pixels):,} images of {images.name}, as integers."
        )
    if not 0 <= classes.min() <= classes.max() <= len(pixels):
        raise DataError(
            f"{labels} has classes {classes.min()} to {classes.max()} for {len(pixels):,} images: number them from 0."
        )
    return GreyImages(pixels, classes, white=255)


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Map split and content to a file of a folder; a plain one before a compressed one."""
    found = {}
    for path in sorted(folder.iterdir(), reverse=True):
        if match := _NAME.fullmatch(path.name):
            found[match["split"], match["what"]] = path
    return found


def _size(images: GreyImages) -> str:
    return "x".join(map(str, images.images.shape[1:]))
