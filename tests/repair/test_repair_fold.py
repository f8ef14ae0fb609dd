"""A fold is the plain merge where rows are equal, and nearer to the wide network where they are not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.jobs.inputs import images, planned
from samples import SAMPLES
from torch import nn

import fxprune
from fxprune.passes.merge import snap
from fxprune.passes.repair import align_norms, repair
from fxprune.passes.rewrite import merged_by
from fxprune.passes.verify.batches import batched_inputs, random_batch
from fxprune.passes.verify.prove import scattered
from fxprune.passes.verify.randomise import randomised
from fxprune.pytorch.torch_private import pytree


def test_equal_rows_give_the_lossless_merge():
    model, plan = planned()
    equal = snap(model, plan)
    small, folded = fxprune.narrow(equal, plan), fxprune.fold(equal, plan, [images()])
    assert folded.meta["errors"]["readers"] < 1e-10  # sums of some hundred float32 terms
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


def test_what_least_squares_can_restore_is_restored():
    """Eight channels of rank four fit into four, though no two of them are alike."""
    model = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 8), nn.Linear(8, 5)).double().eval()
    fused = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 5)).double().eval()
    with torch.no_grad():
        fused[0].weight.copy_(model[1].weight @ model[0].weight)
    x = torch.randn(200, 16, dtype=torch.float64)
    plan = fxprune.plan(fxprune.couple(fused, x[:2]), keep=0.5)
    small = fxprune.fold(fused, plan, [x])
    assert small.meta["errors"]["none"] > 1e-2
    # The least penalty that is tried is 1e-5 of a feature's power, and enters squared.
    assert small.meta["errors"]["readers"] < 1e-6


class Moded(nn.Module):
    """A network that computes a part of it in a mode."""

    def __init__(self, mode):
        super().__init__()
        self.first, self.head, self.mode = nn.Linear(16, 8), nn.Linear(8, 5), mode

    def forward(self, x):
        y = self.first(x)
        if self.mode == "inference":
            with torch.inference_mode():
                return self.head(y.relu())
        if self.mode == "no gradients":
            with torch.no_grad():
                return self.head(y.relu())
        with torch.autocast("cpu", enabled=self.mode == "autocast"):
            return self.head(y.relu()).float()


@pytest.mark.parametrize("mode", ["inference", "no gradients"])
def test_a_layer_in_a_mode_without_gradients_is_repaired(mode):
    torch.manual_seed(0)
    plain, batches = Moded("none").eval(), [torch.randn(60, 16), torch.randn(60, 16)]
    model = Moded(mode).eval()
    model.load_state_dict(plain.state_dict())
    found = [
        fxprune.fold(each, fxprune.plan(fxprune.couple(each, batches[0]), keep=0.5), batches).meta["errors"]
        for each in (model, plain)
    ]
    assert found[0] == found[1] and found[0]["readers"] < found[0]["none"]


@pytest.mark.parametrize("mode", ["inference", "no gradients", "autocast"])
def test_modes_of_a_network_are_left_as_they_were(mode):
    model, batches = Moded(mode).eval(), [torch.randn(20, 16), torch.randn(20, 16)]
    plan = fxprune.plan(fxprune.couple(model, batches[0]), keep=0.5)
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    fxprune.fold(model, plan, batches)
    assert modes == (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))


# A third of the samples, for time, and those that were once refused or wrong. Layers of many small steps take a minute.
ONCE_WRONG = ("matrix times vector", "gather", "there and back", "batch and channels merged")
# A size of two samples stands in them.
ONE_BATCH = ("half of what was written", "group norm, the operator", "a mask and places take a number")
THIRD = dict.fromkeys([*[n for n in SAMPLES if "recurrent" not in n and n not in ONE_BATCH][::3], *ONCE_WRONG])


@pytest.mark.parametrize("name", THIRD)
def test_every_sample_is_nearer_or_the_plain_merge(name):
    """Shapes hold, numbers are finite, and the error on inputs held back is not larger than that of the bare merge."""
    sample = SAMPLES[name]
    model = randomised(sample.net).eval()
    inputs = random_batch(batched_inputs(sample.inputs), 24, seed=1)
    plan = scattered(fxprune.couple(model, inputs, check=False), keep=0.5, seed=0)
    with torch.no_grad():
        wide = _tensors(model(**inputs) if isinstance(inputs, dict) else model(*inputs))
        small = fxprune.fold(model, plan, [inputs])
        narrow = _tensors(small(**inputs) if isinstance(inputs, dict) else small(*inputs))
    assert [x.shape for x in narrow] == [x.shape for x in wide]
    assert all(x.isfinite().all() for x in narrow if x.is_floating_point())
    errors = small.meta["errors"]
    assert errors[small.meta["repair"]] == min(errors.values()) <= errors["none"]


def _tensors(value):
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


class _Keeps(nn.Module):
    """Keeps a ramp that it computes in a buffer, as networks with tables of positions do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.register_buffer("ramp", torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.ramp.shape[0] != x.shape[3]:
            self.ramp = torch.arange(x.shape[3]) / 8
        return self.b(self.a(x).relu() + self.ramp)


def test_what_a_call_keeps_is_no_part_of_the_plan():
    """The graph computes anew what the model has kept since, or keeps while it is measured."""
    model, x = _Keeps().eval(), images()
    coupling = fxprune.couple(model, x)

    def folded():
        plan = fxprune.plan(coupling, keep=0.5, cluster="activations", batches=[x])
        return fxprune.fold(model, plan, [x])(x)

    first = folded()
    model(x)
    torch.testing.assert_close(folded(), first)


def test_each_repair_is_kept_only_if_it_helps():
    model, plan = planned()
    with torch.no_grad():  # running statistics of a whole data set, that a few images of one kind do not have
        model.norm.running_mean.normal_()
    alike = torch.zeros(48, 1, 8, 8) + 1e-3 * torch.randn(48, 1, 8, 8)
    small = fxprune.fold(model, plan, [alike], repair="statistics")
    assert small.meta["errors"]["statistics"] > small.meta["errors"]["none"]
    assert small.meta["repair"] == "none"


def test_align_norms_changes_no_output():
    model, plan = planned()
    aligned = copy.deepcopy(model)
    with torch.no_grad():
        aligned.norm.weight.normal_()
        aligned.norm.running_var.uniform_(0.5, 2)
        aligned.norm.running_mean.normal_()
    before = copy.deepcopy(aligned)
    x = images()
    assert align_norms(aligned, plan) == 1
    torch.testing.assert_close(aligned(x), before(x), rtol=1e-5, atol=1e-5)  # float32, a dozen factors
    factor = (aligned.norm.weight / (aligned.norm.running_var + aligned.norm.eps).sqrt()).detach().numpy()
    cluster = plan.clusters["first.weight"]
    for number in range(cluster.max() + 1):
        assert np.ptp(factor[cluster == number]) < 1e-6 * abs(factor).max()


def test_without_images_noise_stands_in():
    model, plan = planned()
    small = fxprune.fold(model, plan)
    assert small.meta["repair"] == "readers" and set(small.meta["errors"]) == {"none", "statistics", "readers"}
    assert fxprune.fold(model, plan, repair="variance").meta["repair"] == "variance"
    tokens = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    plan = fxprune.plan(fxprune.couple(tokens, torch.randn(2, 6)), keep=0.5)
    assert fxprune.fold(tokens, plan).meta["repair"] == "none"  # no batch normalisation


def test_removed_channels_are_repaired_too():
    """A kept channel stands for itself alone, not for the mean of its cluster."""
    model, plan = planned()
    kept = {name: np.isin(np.arange(len(c)), np.unique(c, return_index=True)[1]) for name, c in plan.clusters.items()}
    bent = copy.deepcopy(model)
    with torch.no_grad():
        for name, stays in kept.items():
            for axis in plan.coupling.groups[name].readers:
                tensor = bent.get_parameter(axis.parameter).movedim(axis.dim, 0)
                tensor[torch.as_tensor(axis.positions[~stays].ravel())] = 0.0
            for axis in plan.coupling.groups[name].tied:
                tensor = dict([*bent.named_parameters(), *bent.named_buffers()])[axis.parameter].movedim(axis.dim, 0)
                first = np.unique(plan.clusters[name], return_index=True)[1][plan.clusters[name]]
                tensor.copy_(tensor[torch.as_tensor(axis.positions[first, 0])])
    small, _ = merged_by(plan, bent, absorb=False)
    weights = {name: stays.astype(float) for name, stays in kept.items()}
    found = repair(model, small, plan, [images(96)], weights=weights)
    assert found.meta["errors"]["readers"] < found.meta["errors"]["none"]
    first = next(each for each in found.meta["repairs"] if each.layer == "first.weight")
    assert first.before < 1e-10 and first.note == "no fit is better"  # its rows are those of the wide network
