"""Checkpoints are written whole, and read where they can be."""

from __future__ import annotations

import os
from random import Random

import pytest
import torch

from fxprune.errors import CheckpointError
from fxprune.passes.store import seal
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.store.seal import write_sealed


def checkpoint(folder, every=0, **identity):
    return Checkpoint(folder / "train.pt", identity, every)


STATE = {"steps": 1, "tensors": {"a": torch.tensor([1.0, -0.0, float("inf")])}, "pair": (1, "two", None)}


def test_what_is_written_is_read(tmp_path):
    saved = checkpoint(tmp_path, lr=0.1)
    assert saved.read() is None
    saved.write(STATE)
    state = saved.read()
    assert (state["steps"], state["pair"]) == (1, (1, "two", None))
    assert torch.equal(state["tensors"]["a"], STATE["tensors"]["a"])
    assert checkpoint(tmp_path, lr=0.1).read(peek=True)["steps"] == 1
    assert Checkpoint(tmp_path / "train.pt", {}, resume=False).read() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.pt"]


@pytest.mark.parametrize(
    ("there", "here", "says"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, "`lr` is 0.1 there and 0.2 here"),
        ({"lr": 0.1}, {"lr": 0.1, "ema": 0.9}, "`ema` is None there and 0.9 here"),
        ({"lr": 0.1, "ema": 0.9}, {"lr": 0.1}, "`ema` is 0.9 there and None here"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused(tmp_path, there, here, says):
    checkpoint(tmp_path, **there).write(STATE)
    with pytest.raises(CheckpointError, match=says):
        checkpoint(tmp_path, **here).read()


def flipped(at):
    """One bit flipped at a share of the file."""

    def flip(data):
        data = bytearray(data)
        data[int(at * (len(data) - 1))] ^= 1
        return bytes(data)

    return flip


DAMAGE = [lambda data: data[:100], lambda data: b"", lambda data: b"x" * len(data), *map(flipped, (0, 0.3, 0.6, 1))]


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_the_last_one_is_damaged_the_one_before_counts(tmp_path, capsys, damage):
    saved = checkpoint(tmp_path)
    saved.write({**STATE, "steps": 1})
    saved.write({**STATE, "steps": 2})
    assert saved.read()["steps"] == 2
    saved.path.write_bytes(damage(saved.path.read_bytes()))
    assert saved.read()["steps"] == 1
    assert "the checkpoint before it is taken" in capsys.readouterr().err
    saved.previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"can be read: .*train\.pt: .*train\.previous\.pt: .*Remove"):
        saved.read()


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    saved = checkpoint(tmp_path)
    write_sealed(saved.path, lambda file: torch.save({"state": pytest.fail}, file))
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        saved.read()


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    saved = checkpoint(tmp_path)
    saved.write(STATE)
    data, random = saved.path.read_bytes(), Random(0)
    for _ in range(300):
        damaged, place = bytearray(data), random.randrange(8 * len(data))
        damaged[place // 8] ^= 1 << place % 8
        saved.path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no checkpoint can be read"):
            saved.read()


def test_what_the_disk_does_not_give_back_does_not_replace_the_last_one(tmp_path, monkeypatch):
    saved = checkpoint(tmp_path)
    saved.write({**STATE, "steps": 1})
    monkeypatch.setattr(seal.os, "fsync", lambda descriptor: os.truncate(descriptor, 300))
    with pytest.raises(OSError, match="does not give back what was written"):
        saved.write({**STATE, "steps": 2})
    assert saved.read()["steps"] == 1
