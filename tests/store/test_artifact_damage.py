"""Whatever is changed in the folder of a saved network is one error that names the file."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.couplings.cases import Plain, randomise
from helpers.jobs.damage import list_again
from helpers.rewrites.merges import narrow_unequal
from safetensors.torch import load_file, save_file

import fxprune
from fxprune.errors import CheckpointError
from fxprune.passes.store.artifact import load, save


@pytest.fixture
def folder(tmp_path):
    network = randomise(Plain(), 0)
    plan = fxprune.plan(fxprune.couple(network, torch.zeros(2, 3, 4, 4, dtype=torch.float64)), keep=0.5)
    save(narrow_unequal(network, plan), tmp_path / "out")
    return tmp_path / "out"


def edit(file="network.json", **changes):
    """Other fields of a file, and a manifest that knows of it."""

    def change(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))
        list_again(folder)

    return change


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


def flip(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


def misread_earlier(folder):
    plan = json.loads((folder / "plan.json").read_text()) | {"inputs": [["float3", [1]]]}
    edit(earlier=[{name: value for name, value in plan.items() if name != "sha256"}])(folder)


def other_number(folder):
    """A file of the same form in which one number is another one."""
    tensors = load_file(folder / "weights.safetensors")
    tensors[min(tensors)].view(-1)[0] += 1.0
    save_file(tensors, folder / "weights.safetensors")
    list_again(folder)


def less_than_nothing(folder):
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["plan.json"]["bytes"] = -1
    (folder / "manifest.json").write_text(json.dumps(content))


def twice(folder):
    content = (folder / "weights.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name, entry = next((name, entry) for name, entry in header.items() if name != "__metadata__")
    new = f'{{"{name}": {json.dumps(entry)}, {json.dumps(header)[1:]}'.encode()
    (folder / "weights.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + content[8 + size :])
    list_again(folder)


DAMAGED = {
    "a size below zero": (less_than_nothing, "a file of -1 bytes cannot be"),
    "a tensor twice": (twice, "weights.safetensors .* is given twice"),
    "other number": (other_number, "weights.safetensors holds other weights than .*network.json"),
    "unfinished": (remove("manifest.json"), r"no manifest.json in it \(graph.json, network.json, plan.json"),
    "no description": (remove("network.json"), "cannot read .*network.json: No such file"),
    "no weights": (remove("weights.safetensors"), "cannot read .*weights.safetensors: No such file"),
    "no plan": (remove("plan.json"), "cannot read .*plan.json: No such file"),
    "cut weights": (cut("weights.safetensors"), r"not the file that was saved: it has \d+ bytes"),
    "cut plan": (cut("plan.json"), r"plan.json is not the file that was saved: it has \d+ bytes"),
    "cut description": (cut("network.json"), r"network.json is not the file that was saved: .* \d+ bytes"),
    "cut manifest": (cut("manifest.json"), "manifest.json is not a whole manifest"),
    "one bit": (flip("weights.safetensors"), r"not the file that was saved: .* SHA-256"),
    "later version": (edit(version=4), "has version 4; this fxprune reads version 3. Update"),
    "earlier version": (edit(version=2), "has version 2; this fxprune reads version 3. Make it again"),
    "later graph": (edit("graph.json", version=2), "has version 2; this fxprune reads version 1. Update"),
    "another format": (edit(format="zip"), "no `format: fxprune-network`"),
    "field of another type": (edit("graph.json", tensors=[]), "`tensors` is a list of 0; it must be dict"),
    "unknown field": (edit(more=1), "there is no field 'more'"),
    "no such preprocessing": (edit(preprocessing={"mean": "x"}), "`input_size` is missing; it must be list"),
    "other tensors": (edit("graph.json", tensors={}), "graph.json is damaged: the graph has no tensor"),
    "other nodes": (edit("graph.json", nodes=[]), "graph.json is damaged: the last node, and no other"),
    "another precision": (edit(precision="int4"), "there is no precision 'int4'"),
    "earlier plan": (edit(earlier=[{}]), "is not an fxprune plan"),
    "inputs of an earlier plan": (misread_earlier, r"network.json is damaged: .* cannot be float3 \[1\]"),
    "unknown factory": (edit(model={"factory": "hub"}), "is damaged: `model` is"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_found(name, folder):
    damage, words = DAMAGED[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        load(folder)


def test_no_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a saved network.*\(no directory\)"):
        load(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a saved network"):
        load(tmp_path / "file")
