"""Images without labels: the first of a seeded order, prepared as test images are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.jobs.inputs import tiny_data
from PIL import Image

from fxprune.errors import DataError
from fxprune.models_zoo.data.calibration_inputs import read_images, unlabelled
from fxprune.models_zoo.data.load import load_data
from fxprune.models_zoo.data.preprocessing import Preprocessing, preprocessing_for

GREY = Preprocessing((1, 8, 8), (0.5,), (0.5,), 1.0, "bilinear")


def pictures(folder, count, mode="L", size=(8, 8), inner="deeper"):
    """Pictures of one value each, in folders of folders."""
    for number in range(count):
        place = folder / f"{number % 2}" / inner
        place.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 10 * number if mode == "L" else (10 * number,) * 3).save(place / f"{number}.png")
    return folder


def values(batches):
    """The value of each picture, when it was one of 0 to 255."""
    return [round(float(image.mean() * 0.5 + 0.5) * 255) for batch in batches for image in batch]


def test_images_of_a_data_set_are_not_augmented():
    data = load_data("digits", image_size=16)
    batches = unlabelled(data, 40, seed=3)
    assert [batch.shape for batch in batches] == [(32, 1, 16, 16), (8, 1, 16, 16)]
    order = torch.randperm(len(data.train.images), generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat(batches), data.train.images[order[:40]])
    assert not torch.equal(torch.cat(unlabelled(data, 40, seed=4)), torch.cat(batches))


def test_a_folder_gives_them_as_test_images(tmp_path):
    for split in ("train", "val"):
        for label in "ab":
            pictures(tmp_path / split / label, 3, size=(16, 16), inner=label)
    data = load_data(str(tmp_path), image_size=8, batch_size=4, auto_augment="original")
    first, second = (torch.cat(unlabelled(data, 5, seed=0)) for _ in range(2))
    assert first.shape == (5, 3, 8, 8)
    assert torch.equal(first, second)
    assert float(first.std((2, 3)).max()) < 1e-6  # colours were not changed, and each picture has one
    assert data.train.dataset.transform is not data.plain.transform


def test_loaders_of_the_user_give_what_they_give():
    first, second = (torch.cat(unlabelled(tiny_data(), 12, seed=1)) for _ in range(2))
    assert first.shape == (12, 1, 8, 8)
    assert torch.equal(first, second)
    assert len(torch.cat(unlabelled(tiny_data(), 1000, seed=1))) == 24


def test_files_and_folders_are_read_in_a_seeded_order(tmp_path):
    folder = pictures(tmp_path / "photos", 6)
    alone = tmp_path / "alone.jpg"
    Image.new("RGB", (20, 12), (200, 200, 200)).save(alone)
    found = values(read_images([folder, alone], GREY, 100, seed=0))
    assert sorted(found) == [0, 10, 20, 30, 40, 50, 200]
    assert values(read_images([folder, alone], GREY, 100, seed=0)) == found
    assert values(read_images([folder, alone], GREY, 3, seed=0)) == found[:3]
    assert values(read_images([folder, alone], GREY, 100, seed=1)) != found


def test_they_are_resized_and_turned_to_colour(tmp_path):
    rgb = Preprocessing((3, 6, 4), (0.5,) * 3, (0.5,) * 3, 0.9, "bicubic")
    (batch,) = read_images([pictures(tmp_path, 2, size=(30, 50))], rgb, 9, seed=0)
    assert batch.shape == (2, 3, 6, 4)


@pytest.mark.parametrize(
    ("name", "channels", "says"),
    [("absent", 1, "there is no file or folder"), ("empty", 1, "there is no image"), ("text", 1, "cannot read"),
     ("text", 4, "1 or 3 channels, and the network reads 4")],
)  # fmt: skip
def test_what_is_no_image_is_named(tmp_path, name, channels, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no image")
    given = Preprocessing((channels, 8, 8), (0.5,) * channels, (0.5,) * channels)
    with pytest.raises(DataError, match=says):
        read_images([tmp_path / name], given, 4, seed=0)


@pytest.mark.parametrize(
    ("config", "size", "mean"),
    [
        ({}, (3, 8, 8), (0.485, 0.456, 0.406)),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}, (3, 8, 8), (0.5, 0.5, 0.5)),
        ({}, (1, 8, 8), (0.5,)),
    ],
)
def test_a_network_says_how_its_images_are_prepared(config, size, mean):
    found = preprocessing_for(config, size)
    assert (found.input_size, found.crop_pct) == (size, config.get("crop_pct", 0.875))
    np.testing.assert_allclose(found.mean, mean)
