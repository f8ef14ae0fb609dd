"""Data that cannot be used is refused, with what is missing or wrong."""

from __future__ import annotations

import sys

import pytest
from helpers.image_folder import make_folder

from fxprune.errors import DataError, OptionError
from fxprune.models_zoo.data import load_data


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


def test_one_class_is_nothing_to_learn(tmp_path):
    make_folder(tmp_path, train=("cat",), test=("cat",))
    with pytest.raises(DataError, match="one class only, `cat`"):
        load_data(str(tmp_path))


def test_an_image_that_is_none(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_text("not an image")
    with pytest.raises(DataError, match=r"cannot read the image .*png: Pillow knows no such"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("name", ["torch/nothing", "hfds/nobody/nothing"])
def test_unreadable_data_set(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=f"cannot read `{name}`"):
        load_data(name, root=tmp_path)


@pytest.mark.parametrize("option", [{"batch_size": 1}, {"image_size": 4}, {"workers": -1}])
def test_options_out_of_range(option):
    with pytest.raises(OptionError, match=rf"`{next(iter(option))}` must be \d (or more|to 65536), not -?\d"):
        load_data("digits", **option)
