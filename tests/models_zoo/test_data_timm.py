"""Images that timm reads: their classes, pixels, sizes and augmentation."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from helpers.image_folder import GreyImages, make_folder, whole
from PIL import Image, ImageOps
from timm.data import auto_augment

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data


@pytest.mark.parametrize("test_name", ["val", "validation"])
def test_folder(tmp_path, test_name):
    data = load_data(str(make_folder(tmp_path, test_name=test_name)), batch_size=4)
    assert (data.num_classes, data.in_chans, data.image_size) == (2, 3, 32)
    images, labels = whole(data.test)
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [len(images) for images, _ in data.train] == [4]
    assert len(data.train) == 1


def test_folder_pixels_are_normalised_by_mean_and_std(tmp_path):
    root = make_folder(tmp_path)
    data = load_data(str(root), batch_size=6)
    images, _ = whole(data.test)
    with Image.open(root / "val" / "cat" / "0.png") as image:
        pixel = torch.tensor(image.getpixel((0, 0))) / 255
    # two float32 roundings
    assert torch.allclose(images[0, :, 5, 5], (pixel - torch.tensor(data.mean)) / torch.tensor(data.std), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "asked", "given"), [((300, 500), None, 224), ((300, 500), 64, 64), ((48, 40), None, 40)]
)
def test_folder_image_size(tmp_path, size, asked, given):
    data = load_data(str(make_folder(tmp_path, size=size)), image_size=asked, batch_size=2)
    assert data.image_size == given
    assert next(iter(data.train))[0].shape == (2, 3, given, given)


def test_few_images_still_make_a_batch(tmp_path):
    assert [len(images) for images, _ in load_data(str(make_folder(tmp_path)), batch_size=64).train] == [6]


def test_folder_with_worker_processes(tmp_path):
    root = str(make_folder(tmp_path))
    alone, helped = (load_data(root, batch_size=4, workers=workers, random_erasing=1.0) for workers in (0, 1))
    assert torch.equal(whole(alone.test)[0], whole(helped.test)[0])
    first, again, other = (torch.manual_seed(0) and whole(data.train)[0] for data in (helped, helped, alone))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # so that a run goes on with as many processes as it had


@pytest.mark.parametrize("option", [{"auto_augment": "rand-m9-n2"}, {"random_erasing": 1.0}])
def test_what_timm_augments_is_the_training_images_alone(tmp_path, option):
    root = str(make_folder(tmp_path, size=(32, 32), each=4))
    plain, changed = load_data(root, batch_size=8), load_data(root, batch_size=8, **option)
    assert torch.equal(whole(plain.test)[0], whole(changed.test)[0])
    flat, seen = (torch.manual_seed(0) and whole(data.train)[0] for data in (plain, changed))
    colour = flat[:, :, :1, :1]
    assert (flat == colour).all()  # each picture has one, wherever it is cut
    assert not torch.equal(seen, flat)
    if "random_erasing" in option:
        assert ((seen == colour) | (seen == 0)).all()  # 0: the mean of the data
        assert all(0.01 < float((picture == 0).float().mean()) < 0.5 for picture in seen)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"auto_augment": "magic"}, "timm has no policy `magic` for auto_augment"),
        ({"auto_augment": "rand-x9"}, "timm has no policy `rand-x9` for auto_augment"),
        ({"random_erasing": 1.5}, "`random_erasing` must be 0 to 1, not 1.5"),
        ({"hflip": 1.5}, "`hflip` must be 0 to 1, not 1.5"),
        ({"crop_scale": (0.8, 1.1)}, "`crop_scale` must be two shares above 0 and up to 1"),
        ({"crop_pct": 0.0}, "`crop_pct` must be a share above 0 and up to 1, not 0.0"),
        ({"random_erasing": -0.1}, "`random_erasing` must be 0 to 1, not -0.1"),
    ],
)
def test_augmentation_that_cannot_be(tmp_path, option, message):
    with pytest.raises(OptionError, match=message):
        load_data(str(make_folder(tmp_path)), batch_size=4, **option)


def make_gradient(root, side):
    """Folder of equal images that get brighter to the right and, twice as fast, to the bottom."""
    picture = Image.new("RGB", (side, side))
    for x in range(side):
        for y in range(side):
            picture.putpixel((x, y), ((2 * y + x) * 255 // (3 * side),) * 3)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                picture.save(root / split / name / f"{i}.png")
    return str(root)


UNTOUCHED = {"hflip": 0.0, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "color_jitter": 0.0, "crop_pct": 1.0}


@pytest.mark.parametrize("side", [32, 80])
@pytest.mark.parametrize(
    ("option", "axes"), [({}, []), ({"hflip": 1.0}, [3]), ({"vflip": 1.0}, [2]), ({"hflip": 1.0, "vflip": 1.0}, [2, 3])]
)
def test_training_images_can_be_left_as_they_are_or_mirrored(tmp_path, side, option, axes):
    data = load_data(make_gradient(tmp_path, side), batch_size=4, **(UNTOUCHED | option))
    assert torch.equal(whole(data.train)[0], whole(data.test)[0].flip(axes))


@pytest.mark.parametrize("option", [{"crop_scale": (0.3, 0.3)}, {"crop_ratio": (2.0, 2.0)}, {"color_jitter": 0.4}])
def test_what_is_cut_and_coloured_is_the_training_images_alone(tmp_path, option):
    root = make_gradient(tmp_path, 32)
    plain, changed = load_data(root, batch_size=4, **UNTOUCHED), load_data(root, batch_size=4, **(UNTOUCHED | option))
    assert torch.equal(whole(plain.test)[0], whole(changed.test)[0])
    torch.manual_seed(0)
    assert not torch.isclose(whole(plain.train)[0], whole(changed.train)[0]).flatten(1).all(1).any()


def test_the_middle_of_the_test_images_alone(tmp_path):
    root = make_gradient(tmp_path, 32)
    plain, middle = (load_data(root, batch_size=4, **(UNTOUCHED | {"crop_pct": share})) for share in (1.0, 0.5))
    assert torch.equal(whole(plain.train)[0], whole(middle.train)[0])
    full, half = whole(plain.test)[0], whole(middle.test)[0]
    assert half.shape == full.shape
    assert half.amin() > full.amin() and half.amax() < full.amax()


@pytest.mark.parametrize(
    ("side", "usual"),
    [
        (32, {"crop_scale": (0.7, 1.0), "crop_ratio": (0.9, 1.1), "color_jitter": 0.0, "crop_pct": 1.0}),
        (80, {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "color_jitter": 0.4, "crop_pct": 0.875}),
    ],
)
def test_what_is_not_asked_for_depends_on_the_size(tmp_path, side, usual):
    root = make_gradient(tmp_path, side)
    left, asked = load_data(root, batch_size=4), load_data(root, batch_size=4, hflip=0.5, vflip=0.0, **usual)
    assert torch.equal(whole(left.test)[0], whole(asked.test)[0])
    assert str(left.train.dataset.transform) == str(asked.train.dataset.transform)
    assert "RandomHorizontalFlip(p=0.5)" in str(left.train.dataset.transform)


@pytest.mark.parametrize("policy", ["rand-m10-n100-inc1", "rand-m0-n100"])
def test_policies_that_leave_no_bits_do_not_break_off_the_epoch(tmp_path, policy):
    data = load_data(str(make_folder(tmp_path)), batch_size=6, auto_augment=policy)
    assert whole(data.train)[0].isfinite().all()


@pytest.mark.parametrize("refuses", [True, False])
def test_policies_posterize_to_one_bit_only_where_pillow_refuses_none(tmp_path, monkeypatch, refuses):
    def posterize(image, bits):
        if refuses and bits < 1:
            raise ValueError("bits")
        return bits

    monkeypatch.setattr(ImageOps, "posterize", posterize)
    names = ("Posterize", "PosterizeIncreasing", "PosterizeOriginal")
    for name in names:
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, auto_augment.posterize)
    load_data(str(make_folder(tmp_path)), batch_size=4, auto_augment="rand-m9-mstd0.5-inc1")
    for name in names:
        kept = [auto_augment.NAME_TO_OP[name](None, bits) for bits in (0, 1, 4)]
        assert kept == [int(refuses), 1, 4]


def test_small_pictures_are_tested_whole(tmp_path):
    root = make_folder(tmp_path, size=(32, 32))
    image = Image.new("RGB", (32, 32))
    image.putpixel((0, 0), (255, 255, 255))
    image.save(root / "val" / "cat" / "0.png")
    data = load_data(str(root), batch_size=4)
    corner = whole(data.test)[0][0, :, 0, 0]
    # two float32 roundings
    assert torch.allclose(corner, (1 - torch.tensor(data.mean)) / torch.tensor(data.std), atol=1e-5)


def test_grey_data_of_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["timm.data.dataset_factory"]._TORCH_BASIC_DS, "mnist", GreyImages)
    data = load_data("torch/mnist", batch_size=2, root=tmp_path)
    assert (data.num_classes, data.in_chans, data.image_size) == (2, 1, 28)
    images, _ = whole(data.test)
    assert images.shape == (4, 1, 28, 28)
    assert images.unique().item() == pytest.approx((51 / 255 - 0.5) / 0.5, abs=1e-6)  # float32
    assert next(iter(data.train))[0].shape == (2, 1, 28, 28)
    assert whole(data.train)[0].unique().numel() == 1
    jittered = load_data("torch/mnist", batch_size=2, root=tmp_path, color_jitter=0.4)
    assert whole(jittered.train)[0].unique().numel() > 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "no image", "gone"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage, workers):
    root = make_folder(tmp_path)
    data = load_data(str(root), batch_size=6, workers=workers)
    bad = root / "train" / "dog" / "1.png"
    if damage == "gone":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:60] if damage == "cut" else b"no image")
    with pytest.raises(DataError, match=rf"^cannot read the image {bad}: [^\n]*Repair it, or take it away\.$"):
        whole(data.train)
    assert len(whole(data.test)[1]) == 6


@pytest.mark.parametrize("names", [("a", "A"), ("1", "01")])
def test_classes_without_an_order_are_refused(tmp_path, names):
    root = make_folder(tmp_path, train=names, test=names)
    with pytest.raises(DataError, match="differ in capitals or leading zeros only"):
        load_data(str(root))


def test_an_image_without_a_class_is_refused(tmp_path):
    root = make_folder(tmp_path)
    (root / "val" / "cat" / "0.png").rename(root / "val" / "0.png")
    with pytest.raises(DataError, match="val holds images outside of the folders of classes"):
        load_data(str(root))


@pytest.mark.parametrize("name", ["a\x07", "\udce9"])
def test_a_class_whose_name_no_result_can_hold_is_refused(tmp_path, name):
    root = make_folder(tmp_path, train=("b", name), test=("b", name))
    with pytest.raises(DataError, match=r"a class in .*train has a name that no result can hold: it holds text "):
        load_data(str(root))


def test_a_name_that_timm_cannot_sort_is_refused(tmp_path):
    root = make_folder(tmp_path, train=("a", "1\u00b2"), test=("a", "1\u00b2"))
    with pytest.raises(DataError, match=r"timm cannot sort the names in .*train"):
        load_data(str(root))


def test_a_pipe_is_no_image(tmp_path):
    root = make_folder(tmp_path)
    os.mkfifo(root / "train" / "cat" / "00.png")
    with pytest.raises(DataError, match=r"cannot read the image .*00\.png: .*Not a regular file"):
        whole(load_data(str(root)).train)
