"""A saved network comes back bit for bit, or one error says why not."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.damage import list_again
from helpers.hand_made import Normed, Plain, randomise
from helpers.unequal import narrow_unequal
from torch import nn

import fxprune
from fxprune.errors import CheckpointError, OptionError
from fxprune.passes.store.artifact import ModelSpec, load, save
from fxprune.passes.store.weights import distinct_tensors

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def narrowed(model, x):
    return narrow_unequal(model, fxprune.plan(fxprune.couple(model, x), keep=0.5))


@pytest.fixture
def saved(tmp_path):
    narrow = narrowed(randomise(Plain(), 0), X)
    save(narrow, tmp_path / "out")
    return narrow, tmp_path / "out"


class Constants(nn.Module):
    """Numbers of every kind that a state dict leaves out, and one weight under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)
        self.first_again = nn.Linear(4, 8, bias=False)
        self.first_again.weight = self.first.weight
        self.register_buffer("shift", torch.randn(4), persistent=False)
        self.attribute = torch.linspace(0.0, 1.0, 4)

    def forward(self, x):
        x = x + self.shift * self.attribute
        return self.second((self.first(x) + self.first_again(x)).relu())


NETWORKS = {
    "convolutions": (lambda: randomise(Plain(), 0), X),
    "shared weight": (lambda: randomise(Normed(), 0), torch.randn(3, 5, dtype=torch.float64)),
    "constants": (Constants, torch.randn(3, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_comes_back_bit_for_bit(name, tmp_path):
    make, x = NETWORKS[name]
    narrow = narrowed(make(), x).eval()
    assert narrow.meta["plan"].clusters
    save(narrow, tmp_path)
    back = load(tmp_path, model=make())
    assert back(x).equal(narrow(x))
    assert not back.training
    assert "max_change" not in back.meta  # that of the throw-away weights, of which nothing warns either
    assert back.meta["plan"] == narrow.meta["plan"]
    assert {name: tensor.shape for name, tensor in distinct_tensors(back).items()} == {
        name: tensor.shape for name, tensor in distinct_tensors(narrow).items()
    }


# The second has a bias in its first convolution: it does not run on inputs of another type than its weights.
@pytest.mark.parametrize(
    ("name", "size", "dtype"), [("resnet20", 32, torch.float32), ("test_convnext", 64, torch.float64)]
)
def test_a_network_with_a_name_needs_no_model(name, size, dtype, tmp_path):
    spec = ModelSpec(name, {"num_classes": 10})
    model, x = spec.build().to(dtype), torch.randn(2, 3, size, size, dtype=dtype)
    narrow = narrowed(model, x).eval()
    save(narrow, tmp_path, model=spec)
    random_state = torch.get_rng_state()
    back = load(tmp_path)
    assert torch.get_rng_state().equal(random_state)
    assert back(x).equal(narrow(x))


def test_no_file_holds_code(saved):
    _, folder = saved
    assert sorted(file.name for file in folder.iterdir()) == [
        *("manifest.json", "network.json", "plan.json", "weights.safetensors")
    ]


def test_saving_again_replaces_the_network(saved):
    narrow, folder = saved
    with torch.no_grad():
        narrow.head.weight.mul_(2)
    save(narrow, folder)
    assert load(folder, model=Plain().double()).head.weight.equal(narrow.head.weight)


def test_a_save_that_fails_leaves_the_old_network(saved, monkeypatch):
    narrow, folder = saved
    monkeypatch.setattr(type(narrow.meta["plan"]), "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(narrow, folder)
    assert len(list(folder.iterdir())) == 4
    load(folder, model=Plain().double())


def edit(**changes):
    """Other fields of network.json, and a manifest that knows of it."""

    def change(folder):
        content = json.loads((folder / "network.json").read_text())
        (folder / "network.json").write_text(json.dumps({**content, **changes}))
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


DAMAGED = {
    "unfinished": (remove("manifest.json"), r"no manifest.json in it \(network.json, plan.json, weights.safetensors\)"),
    "no description": (remove("network.json"), "cannot read .*network.json: No such file"),
    "no weights": (remove("weights.safetensors"), "cannot read .*weights.safetensors: No such file"),
    "no plan": (remove("plan.json"), "cannot read .*plan.json: No such file"),
    "cut weights": (cut("weights.safetensors"), r"not the file that was saved: it has \d+ bytes"),
    "cut plan": (cut("plan.json"), r"plan.json is not the file that was saved: it has \d+ bytes"),
    "cut description": (cut("network.json"), r"network.json is not the file that was saved: .* \d+ bytes"),
    "cut manifest": (cut("manifest.json"), "manifest.json is not a whole manifest"),
    "one bit": (flip("weights.safetensors"), r"not the file that was saved: .* SHA-256"),
    "later version": (edit(version=3), "has version 3; this fxprune reads version 2. Update"),
    "earlier version": (edit(version=1), "has version 1; this fxprune reads version 2. Make it again"),
    "another format": (edit(format="zip"), "no `format: fxprune-network`"),
    "field of another type": (edit(tensors=[]), "`tensors` is a list of 0; it must be dict"),
    "unknown field": (edit(more=1), "there is no field 'more'"),
    "no such preprocessing": (edit(preprocessing={"mean": "x"}), "`input_size` is missing; it must be list"),
    "other tensors": (edit(tensors={}), "another network: 15 of 15 tensors differ, first "),
    "model missing": (edit(model=None), r"give load\(..., model=\)"),
    "unknown factory": (edit(model={"factory": "hub"}), "is damaged: `model` is"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_found(name, saved):
    _, folder = saved
    damage, words = DAMAGED[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        load(folder, model=None if "model" in name or "factory" in name else Plain().double())


def test_no_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a saved network.*\(no directory\)"):
        load(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a saved network"):
        load(tmp_path / "file")


def test_the_wrong_wide_network_is_found(saved):
    _, folder = saved
    with pytest.raises(
        CheckpointError, match=r"another wide network: .* first conv1.weight: .*\(8, 3, 3, 3\) in the plan"
    ):
        load(folder, model=Plain(first=12).double())


def test_what_cannot_be_saved(saved, tmp_path):
    narrow, _ = saved
    with pytest.raises(OptionError, match="Plain does not know its plan"):
        save(Plain(), tmp_path / "new")
    with pytest.raises(OptionError, match=r"`act` is no argument .* `model`, and give load\(..., model=\)"):
        save(narrow, tmp_path / "new", model=ModelSpec("resnet20", {"act": nn.ReLU}))
    with pytest.raises(OptionError, match=r"`width` must be a number up to 64, not 1000"):
        save(narrow, tmp_path / "new", model=ModelSpec("resnet20", {"width": 1000}))
    assert not (tmp_path / "new").exists()
