"""A narrow network, a plan and a coupling survive pickle, torch.save, joblib and copies."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import joblib
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.plan_file import earlier_plans_of, plan_of

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Plain(nn.Module):
    """Layers and functions that a trace of PyTorch records again."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu()).mean((2, 3))


class Branches(Plain):
    """A branch by a size: its graph has a guard, beside a function that has no public name of its own."""

    def forward(self, x):
        return super().forward(F.max_pool2d(x, 2)) if x.shape[2] > 4 else x


class Precise(Plain):
    """A block in full precision, which a trace of PyTorch drops."""

    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        with torch.autocast("cpu", enabled=False):
            x = self.b(x.float())
        return x.mean((2, 3))


class Makes(Plain):
    """A tensor that is made of a size."""

    def forward(self, x):
        return super().forward(x) + torch.zeros(x.shape[0], 5)


class Counts(Plain):
    """A whole number of a quotient, as of the samples that windows come from."""

    def forward(self, x):
        windows = self.a(x).flatten(2).unflatten(2, (-1, 16)).transpose(1, 2).flatten(0, 1)
        samples = int(windows.shape[0] / (x.shape[2] * x.shape[3] / 16))
        y = windows.view(samples, -1, 16, 16).transpose(1, 2).flatten(2).unflatten(2, x.shape[2:])
        return self.b(self.norm(y).relu()).mean((2, 3))


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def dumped(value):
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


WAYS = {"pickle": pickled, "torch": saved, "joblib": dumped, "copy": copy.deepcopy}
NETS = [Plain, Branches, Precise, Makes, Counts]


def made(kind):
    torch.manual_seed(0)
    net = kind().eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    return net, plan, narrow_snapped(net, plan)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", NETS)
def test_a_narrow_network_computes_the_same_again(kind, way):
    _, plan, narrow = made(kind)
    again = WAYS[way](narrow)
    assert torch.equal(again(X), narrow(X))
    assert again.state_dict().keys() == narrow.state_dict().keys()
    assert again.code == narrow.code
    assert type(again).__name__ == kind.__name__
    assert plan_of(again).widths == plan.widths
    assert torch.equal(pickle.loads(pickle.dumps(again))(X), narrow(X))


def test_modes_are_kept():
    _, _, narrow = made(Precise)
    again = saved(narrow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(again(X), narrow(X))


def test_guards_are_kept():
    with pytest.raises(RuntimeError, match="captured where"):
        saved(made(Branches)[2])(X[:, :, :3, :3])


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_applies_again(way):
    net, plan, narrow = made(Branches)
    again, twin = WAYS[way]((plan, net))
    assert again == plan
    assert again.coupling.digest == plan.coupling.digest
    assert torch.equal(narrow_snapped(twin, again)(X), narrow(X))


def test_a_pickled_network_is_as_small_as_its_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 5, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.25)
    narrow = narrow_snapped(net, plan)
    weights = sum(4 * p.numel() for p in narrow.parameters())
    assert len(pickle.dumps(narrow)) < weights + 20_000 < sum(4 * p.numel() for p in net.parameters())


def test_a_pickled_network_can_become_narrower_and_be_saved(tmp_path):
    _, plan, narrow = made(Plain)
    again = saved(narrow)
    further = fxprune.plan(fxprune.couple(again, X), keep=0.5)
    smaller = narrow_snapped(again, further)
    assert [each.widths for each in earlier_plans_of(smaller)] == [plan.widths]
    fxprune.save(saved(smaller), tmp_path)
    assert torch.allclose(fxprune.load(tmp_path)(X), smaller(X), atol=1e-6)
    assert torch.equal(saved(fxprune.load(tmp_path))(X), fxprune.load(tmp_path)(X))


def test_a_file_loads_without_fxprune(tmp_path, forked):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    narrow = narrow_snapped(net, plan)
    torch.save((narrow, X, narrow(X)), tmp_path / "narrow.pt")
    load = (
        "import sys; sys.modules['fxprune'] = None; import torch\n"
        f"narrow, x, y = torch.load({str(tmp_path / 'narrow.pt')!r}, weights_only=False)\n"
        "assert torch.allclose(narrow(x), y, atol=1e-6) and narrow.meta['plan']['format'] == 'fxprune-plan'"
    )
    done = subprocess.run([sys.executable, "-I", "-c", load])
    assert done.returncode == 0, done.stderr


def test_the_model_of_a_coupling_is_held():
    assert fxprune.plan(fxprune.couple(Plain().eval(), X)).widths == {"a.weight": (16, 8)}
