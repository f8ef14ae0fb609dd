"""IDX files: what is in them is what is read, and files that are damaged or do not match are refused."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data, packages
from fxprune.models_zoo.data.idx import TYPES, read_idx

CODES = {np.dtype(name).newbyteorder("="): code for code, name in TYPES.items()}


def idx_bytes(array):
    head = bytes([0, 0, CODES[array.dtype], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(path, array):
    path.write_bytes(gzip.compress(idx_bytes(array)) if path.suffix == ".gz" else idx_bytes(array))


def write_folder(folder, *, test="t10k", gz="", side=8, classes=3, **more):
    """Twelve images to train and six to test; ``more`` replaces the contents of a file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), (test, 6)):
        arrays = {
            "images-idx3": rng.integers(0, 256, (count, side, side), dtype=np.uint8),
            "labels-idx1": np.arange(count, dtype=np.uint8) % classes,
        }
        for what, array in arrays.items():
            write_idx(folder / f"{split}-{what}-ubyte{gz}", more.get(f"{split}_{what[:6]}", array))
    return str(folder)


@pytest.mark.parametrize("dtype", CODES, ids=str)
@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_numbers_survive(tmp_path, name, dtype):
    array = (100 * np.random.default_rng(0).random((2, 3, 4))).astype(dtype)
    write_idx(tmp_path / name, array)
    found = read_idx(tmp_path / name)
    assert found.dtype == dtype and np.array_equal(found, array)


@pytest.mark.parametrize(("test", "gz"), [("t10k", ""), ("test", ".gz")])
def test_a_folder_is_read_as_it_is_split(tmp_path, test, gz):
    data = load_data(write_folder(tmp_path, test=test, gz=gz), batch_size=4)
    assert (data.num_classes, data.in_chans, data.image_size, data.classes) == (3, 1, 8, ("0", "1", "2"))
    images, labels = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] and len(data.train.images) == 12
    pixels = (images * data.std[0] + data.mean[0]) * 255
    # one float32 rounding each way of values up to 255
    assert torch.equal(
        pixels.round()[:, 0].to(torch.uint8), torch.from_numpy(read_idx(tmp_path / f"{test}-images-idx3-ubyte{gz}"))
    )
    assert data.train.images.mean().abs() < 1e-6 and data.train.images.std() == pytest.approx(1)
    assert load_data(str(tmp_path), image_size=32).train.shift == 2


def test_a_plain_file_comes_before_a_compressed_one(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not compressed")
    assert len(load_data(name).train.images) == 12


DAMAGE = {
    "empty": (b"", r"no IDX file: it begins with the bytes \(none\)"),
    "other": (b"\x89PNG\r\n", "no IDX file: it begins with the bytes 89 50 4e 47"),
    "type": (bytes([0, 0, 7, 1]), "no IDX file"),
    "axes": (bytes([0, 0, 8, 0]), "no IDX file"),
    "head": (bytes([0, 0, 8, 3, 0, 0, 0, 12, 0, 0]), "damaged: its head says 3 axes of lengths"),
    "huge": (bytes([0, 0, 8, 255]) + b"\xff" * 1020, "damaged: its head says 255 axes"),
    "short": (bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2]), r"lengths \[5\], which are 5 bytes, and it holds 2\."),
    "long": (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), r"are 1 bytes, and it holds more\."),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_a_damaged_file_is_refused(tmp_path, damage, gz):
    name = write_folder(tmp_path, gz=gz)
    content, message = DAMAGE[damage]
    (tmp_path / f"train-images-idx3-ubyte{gz}").write_bytes(gzip.compress(content) if gz else content)
    with pytest.raises(DataError, match=message):
        load_data(name)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"x" + raw, lambda raw: raw[:30] + raw[31:]])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    name = write_folder(tmp_path, gz=".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cannot read .*t10k-images-idx3-ubyte\.gz: \w+: .*Get the file again"):
        load_data(name)


BYTES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
WRONG = {
    "floats": ({"train_images": BYTES.astype(np.float32)}, r"holds float32 \[12, 8, 8\]: it must be square"),
    "axes": ({"train_images": BYTES.reshape(12, 64)}, r"holds uint8 \[12, 64\]"),
    "not square": ({"train_images": BYTES[:, :4]}, r"holds uint8 \[12, 4, 8\]"),
    "no image": ({"train_images": BYTES[:0]}, r"holds uint8 \[0, 8, 8\]"),
    "other size": ({"t10k_images": BYTES[:6, :4, :4]}, "differ: 8x8 to train, 4x4 to test"),
    "one colour": ({"train_images": np.zeros_like(BYTES)}, "all pixels of .* are alike"),
    "count": ({"train_labels": np.zeros(11, np.uint8)}, r"holds uint8 \[11\]: it must be one class for each of the 12"),
    "real labels": ({"train_labels": np.zeros(12, np.float32)}, r"holds float32 \[12\]"),
    "negative": ({"train_labels": np.full(12, -1, np.int8)}, "classes -1 to -1 for 12 images"),
    "far": ({"train_labels": np.full(12, 10**9, np.int32)}, "number them from 0"),
    "unknown": ({"t10k_labels": np.full(6, 3, np.uint8)}, "differ: up to 2 to train, up to 3 to test"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_do_not_match_are_refused(tmp_path, wrong):
    replaced, message = WRONG[wrong]
    with pytest.raises(DataError, match=message):
        load_data(write_folder(tmp_path, **replaced))


def test_missing_files_are_named(tmp_path):
    name = write_folder(tmp_path)
    for path in tmp_path.glob("t10k-*"):
        path.unlink()
    with pytest.raises(DataError, match="but not test-images-idx3-ubyte, test-labels-idx1-ubyte, with or without"):
        load_data(name)


def test_images_are_shifted_and_nothing_else(tmp_path):
    with pytest.raises(OptionError, match="hflip: for images that timm reads"):
        load_data(write_folder(tmp_path), hflip=0.5)


def test_fashion_mnist_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "FASHION_MNIST", tmp_path / "none")
    with pytest.raises(DataError, match=r"apt install dataset-fashion-mnist; or name a folder"):
        load_data("fashion-mnist")


@pytest.mark.skipif(not packages.FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist():
    data = load_data("fashion-mnist", batch_size=100)
    assert (data.num_classes, data.image_size, data.classes[9]) == (10, 28, "ankle boot")
    assert (len(data.train.images), len(data.test.images)) == (60_000, 10_000)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert (data.mean[0], data.std[0]) == pytest.approx((0.2860, 0.3530), abs=1e-4)  # as published for these images
