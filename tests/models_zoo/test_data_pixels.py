"""Images of any depth, palette and number of channels become the grey or coloured ones of a network."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from helpers.image_folder import GreyImages, make_folder, whole
from PIL import Image

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data
from fxprune.models_zoo.data.pixels import converted

RAMP = np.linspace(0, 255, 16, dtype=np.uint8).reshape(4, 4)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)


def palette():
    image = Image.fromarray(COLOURS).quantize(16)
    image.info["transparency"] = bytes(range(16))
    return image


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("image", "pixels"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),  # Pillow makes all but the first of them white
        (Image.fromarray(COLOURS), COLOURS),
        (Image.fromarray(np.dstack([COLOURS, RAMP])), COLOURS),
        (Image.fromarray(np.dstack([RAMP, RAMP[::-1]]), "LA"), RAMP),
        (palette(), COLOURS),
        (Image.fromarray(RAMP > 99), 255 * (RAMP > 99)),
    ],
    ids=["grey", "16 bits", "colour", "transparent", "grey, transparent", "palette", "1 bit"],
)
def test_pixels_keep_their_values(tmp_path, image, pixels, suffix):
    image.save(tmp_path / f"it.{suffix}")
    with Image.open(tmp_path / f"it.{suffix}") as opened:
        colour, grey = (np.asarray(converted(opened, mode)).astype(int) for mode in ("RGB", "L"))
    wanted = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
    np.testing.assert_array_equal(colour, wanted)
    np.testing.assert_allclose(grey, wanted @ [0.299, 0.587, 0.114], atol=1)  # rounded, ITU-R 601


def test_numbers_without_a_white_are_refused(tmp_path):
    root = make_folder(tmp_path)
    for path in root.rglob("*.png"):
        Image.fromarray(np.ones((8, 8), np.float32)).save(path, "TIFF")  # Pillow looks at the content
    with pytest.raises(DataError, match=r"png: its pixels are real numbers of 32 bits; store 8 or 16"):
        load_data(str(root))


def test_a_folder_of_colours_becomes_grey(tmp_path):
    root = make_folder(tmp_path)
    data = load_data(str(root), batch_size=6, in_chans=1)
    images, _ = whole(data.test)
    assert images.shape == (6, 1, 32, 32) and (data.in_chans, len(data.mean)) == (1, 1)
    with Image.open(root / "val" / "cat" / "0.png") as image:
        pixel = image.convert("L").getpixel((0, 0)) / 255
    assert images[0, 0, 5, 5].item() == pytest.approx((pixel - 0.5) / 0.5, abs=1e-6)  # float32
    assert next(iter(data.train))[0].shape[1] == 1


def test_grey_images_are_repeated():
    grey, colour = (load_data("digits", image_size=8, batch_size=50, in_chans=channels) for channels in (None, 3))
    assert (colour.in_chans, colour.mean) == (3, grey.mean * 3)
    for one, three in ((whole(grey.test)[0], whole(colour.test)[0]), (grey.plain[7][0], colour.plain[7][0])):
        assert torch.equal(one.expand(three.shape), three)
    assert next(iter(colour.train))[0].shape == (50, 3, 8, 8)


def test_data_of_torchvision_are_converted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["timm.data.dataset_factory"]._TORCH_BASIC_DS, "mnist", GreyImages)
    data = load_data("torch/mnist", batch_size=2, root=tmp_path, in_chans=3)
    images, labels = whole(data.test)
    assert images.shape == (4, 3, 28, 28) and labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_files_hold_grey_or_coloured_images(tmp_path, name):
    given = str(make_folder(tmp_path)) if name == "folder" else name
    with pytest.raises(OptionError, match=r"`in_chans` is 1 or 3 for images of files, .* not 4"):
        load_data(given, in_chans=4)
