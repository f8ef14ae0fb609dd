"""Files are read and removed only where they are what they should be."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from fxprune.common.documents import write_json
from fxprune.common.files import open_plain, remove_parts, safetensors_errors, written_aside
from fxprune.errors import OptionError


def test_a_folder_in_the_place_of_a_file_is_named_and_stays_closed(tmp_path):
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(IsADirectoryError) as caught:
            open_plain(tmp_path)
    assert (caught.value.filename, len(os.listdir("/dev/fd"))) == (os.fspath(tmp_path), before)


def test_only_temporary_files_of_ours_are_removed(tmp_path):
    (tmp_path / ".plan.json.mine.part").touch()
    with written_aside(tmp_path / "plan.json") as aside:
        left = tmp_path / aside.name.replace(aside.suffixes[-2], ".a_b_c_d_")
        os.link(aside, left)
    remove_parts(tmp_path, ["plan.json"])
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", ".plan.json.mine.part"}


def test_no_file_is_written_that_could_not_be_read_again(tmp_path):
    for text in ("a\x07", "\udce9"):
        with pytest.raises(OptionError, match=r"plan\.json would not be readable: it holds text"):
            write_json(tmp_path / "plan.json", {"names": [text]})
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_an_error_of_the_disk_in_safetensors_too(tmp_path):
    with pytest.raises(FileNotFoundError), safetensors_errors(tmp_path / "none" / "w.safetensors"):
        save_file({"w": torch.ones(1)}, tmp_path / "none" / "w.safetensors")
