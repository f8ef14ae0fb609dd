"""Files that are no files, that change later or while they are read, and file objects in their place."""

from __future__ import annotations

import io
import json
import os
import struct

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CheckpointError
from fxprune.passes.store import artifact, load_weights, open_network, save_weights


@pytest.fixture
def saved(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, torch.empty(2, 3, 8, 8, device="meta")), keep=0.5)
    fxprune.save(fxprune.narrow(fxprune.snap(net, plan), plan), tmp_path / "out")
    return tmp_path / "out"


def test_a_loaded_network_keeps_its_numbers_when_the_file_changes(saved):
    network = fxprune.load(saved)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path = saved / "weights.safetensors"
    with open(path, "r+b") as file:  # in place, as some programs copy
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_folder_that_changes_while_it_is_read(saved, monkeypatch):
    build = artifact.build_graph

    def meanwhile(path, tensors):
        manifest = json.loads((saved / "manifest.json").read_text())
        (saved / "manifest.json").write_text(json.dumps(manifest | {"reads": {"checkpoint": "0" * 64}}))
        return build(path, tensors)

    monkeypatch.setattr(artifact, "build_graph", meanwhile)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        fxprune.load(saved)


def test_a_file_without_end_is_not_hashed_to_its_end(saved):
    os.truncate(saved / "weights.safetensors", 1 << 43)
    with pytest.raises(CheckpointError, match=r"it has more, and manifest\.json says"):
        fxprune.load(saved)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_from_a_pipe_are_refused(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="Not a regular file"):
        load_weights(nn.Linear(2, 2), path)


def test_a_header_of_a_million_tensors_is_refused(tmp_path):
    tensor = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(f'"{n}":{tensor}' for n in range(1 << 18)) + "}").encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="no dict of at most 131072 tensors"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")


@pytest.mark.parametrize("write", [save_weights, lambda net, file: torch.save(net.state_dict(), file)])
def test_weights_in_a_file_object(write):
    net, other, file = nn.Linear(2, 2), nn.Linear(2, 2), io.BytesIO()
    write(net, file)
    file.seek(0)
    load_weights(other, file)
    assert torch.equal(net.weight, other.weight)


def test_no_weights_in_a_file_object():
    with pytest.raises(CheckpointError, match=r"the given file .* cannot be read as weights"):
        load_weights(nn.Linear(2, 2), io.BytesIO(b"\x08\0\0\0\0\0\0\0{"))


def test_a_program_in_a_file_object():
    net, file = nn.Linear(4, 2).eval(), io.BytesIO()
    given = torch.randn(2, 4)
    torch.export.save(torch.export.export(net, (given,)), file)
    file.seek(0)
    assert torch.equal(open_network(file).model(given), net(given))
