"""A saved network comes back bit for bit, or one error says why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.couplings.cases import Normed, Plain, randomise
from helpers.jobs.damage import list_again
from helpers.rewrites.merges import narrow_unequal
from torch import nn

import fxprune
from fxprune.errors import CheckpointError, OptionError
from fxprune.passes.store import artifact, distinct_tensors
from fxprune.passes.store.artifact import ModelSpec, check_probe, load, save

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
    plan = narrow.meta["plan"]
    save(narrow, tmp_path)
    back = load(tmp_path)
    assert back(x).equal(narrow(x))
    assert not back.training
    assert back.meta["plan"].widths == {name: plan.widths[name] for name in plan.clusters}
    assert load(tmp_path, model=make()).meta["plan"] == plan
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
    assert back.meta["spec"] == spec


ALONE = """
import sys
sys.modules["timm"] = sys.modules["torchvision"] = None
import torch, fxprune
network = fxprune.load(sys.argv[1])
with torch.no_grad():
    print(float(network(torch.linspace(0, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)).double().sum()))
fxprune.load(sys.argv[2])  # whose inputs are integers, and whose table would draw normal numbers
assert not {"fxprune.analysis", "torch._dynamo"} & set(sys.modules)
"""


def test_a_load_needs_no_library_of_models(tmp_path):
    import timm

    narrow = narrowed(timm.create_model("test_convnext", num_classes=10).eval(), torch.randn(2, 3, 64, 64)).eval()
    save(narrow, tmp_path)
    words, ids = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 2)).eval(), torch.zeros(2, 3).long()
    save(narrowed(words, ids).eval(), tmp_path / "words")
    paths = [tmp_path, tmp_path / "words"]
    done = subprocess.run([sys.executable, "-c", ALONE, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    x = torch.linspace(0, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    # The other process may use other kernels, which round sums of some hundred float32 terms another way.
    assert float(done.stdout) == pytest.approx(narrow(x).double().sum().item(), rel=1e-4)


def test_a_narrow_network_is_narrowed_again(saved):
    narrow, folder = saved
    again = narrowed(load(folder), X).eval()
    save(again, folder)
    back = load(folder)
    assert back(X).equal(again(X))
    (first,) = back.meta["earlier"]
    assert first.widths == {name: narrow.meta["plan"].widths[name] for name in narrow.meta["plan"].clusters}
    assert back.meta["plan"].widths["conv1.weight"] == (4, 2)


def test_a_loaded_network_is_saved_again(saved, tmp_path):
    _, folder = saved
    save(load(folder), tmp_path / "copy")
    names = ("graph.json", "plan.json", "weights.safetensors", "probe.safetensors")
    assert [(tmp_path / "copy" / name).read_bytes() for name in names] == [
        (folder / name).read_bytes() for name in names
    ]


def test_a_network_that_another_version_saved_loads():
    folder = Path(__file__).parent / "saved_by_0.1.0"
    error, bound = check_probe(load(folder), folder)
    assert error <= bound
    assert load(folder).meta["plan"].widths


def test_a_file_that_does_not_tell_of_absorbed_factors_leaves_them_unknown(saved, tmp_path):
    _, folder = saved
    content = json.loads((folder / "network.json").read_text())
    assert content.pop("absorbed") == 0
    (folder / "network.json").write_text(json.dumps(content))
    list_again(folder)
    assert load(folder).meta["absorbed"] is None
    save(load(folder), tmp_path / "again")
    assert "absorbed" not in json.loads((tmp_path / "again" / "network.json").read_text())


def test_a_network_that_was_loaded_in_inference_mode_trains(saved):
    _, folder = saved
    with torch.inference_mode():
        network = load(folder)
    network(X).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_no_file_holds_code(saved):
    _, folder = saved
    assert sorted(file.name for file in folder.iterdir()) == [
        *("graph.json", "manifest.json", "network.json", "plan.json", "probe.safetensors", "weights.safetensors")
    ]


def test_saving_again_replaces_the_network(saved):
    narrow, folder = saved
    with torch.no_grad():
        narrow.head.weight.mul_(2)
    save(narrow, folder)
    assert load(folder, model=Plain().double()).head.weight.equal(narrow.head.weight)


def test_a_save_that_fails_leaves_the_old_network(saved, monkeypatch):
    narrow, folder = saved
    monkeypatch.setattr(artifact, "write_text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(narrow, folder)
    assert len(list(folder.iterdir())) == 6
    load(folder, model=Plain().double())


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
    with pytest.raises(OptionError, match=r"as \('resnet50', \{'num_classes': 10\}\), not 'resnet20' and 10"):
        save(narrow, tmp_path / "new", model=ModelSpec("resnet20", 10))
    assert not (tmp_path / "new").exists()


def test_a_meta_default_device_changes_nothing(tmp_path):
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(), torch.randn(2, 3, 8, 8)
    with torch.device("meta"):
        coupling = fxprune.couple(network, images)
        narrow = fxprune.narrow(network, fxprune.plan(coupling, keep=1.0))
        fxprune.save(narrow, tmp_path / "out")
        read = fxprune.load(tmp_path / "out")
    assert coupling.digest == fxprune.couple(network, images).digest
    torch.testing.assert_close(read(images), network(images))
