"""The layers of a narrow network tell the truth, and the wide network stays as it is."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.attributes import assert_layers_tell_the_truth
from helpers.rewrites.merges import halved as half_of
from helpers.rewrites.merges import narrow_unequal
from helpers.rewrites.proofs import narrowed, proved
from samples import SAMPLES, Net, conv, linear
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fxprune
from fxprune.costs import Cost, cost
from fxprune.errors import PlanError, UnequalClustersWarning
from fxprune.passes.merge.snap import snap
from fxprune.passes.rewrite.narrow import narrow
from fxprune.passes.verify.compare import verify
from fxprune.passes.verify.randomise import randomised
from fxprune.plans import Plan
from fxprune.pytorch.precision import PromoteMixed


def halved(name):
    sample = SAMPLES[name]
    return narrow_unequal(sample.net, even(fxprune.couple(sample.net, sample.inputs, check=False)))


def even(coupling):
    return Plan(coupling, {name: np.arange(g.width) // 2 for name, g in coupling.groups.items() if g.width % 2 == 0})


@pytest.mark.parametrize("name", SAMPLES)
def test_layers_of_samples_tell_the_truth(name):
    assert_layers_tell_the_truth(narrowed(name)[1])


# Where a call hides products from PyTorch's counter, or breaks it, or values decide how many tokens a layer reads.
HIDDEN = (
    "recurrent", "recurrent, both directions, three layers", "recurrent, last state only",
    "recurrent, two first states", "recurrent, a learned first state", "attention as a layer, fused",
    "attention with packed heads", "learned queries, fused", "fused attention, scale given",
    "fused attention, scale computed", "transformer layer",
    "a table per channel of queries and keys", "matrix times vector", "addmv", "a matrix and a vector",
    "matrix by vector", "products of vectors", "vector times an expanded one", "keys that are values, fused",
    "experts that a score picks",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - set(HIDDEN)))
def test_layers_of_samples_cost_what_the_plan_says(name):
    inputs, (_, made) = [x.double() if x.is_floating_point() else x for x in SAMPLES[name].inputs], narrowed(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), PromoteMixed():
        made(*inputs)
    assert cost(proved(name).plan) == Cost(sum(p.numel() for p in made.parameters()), counter.get_total_flops() // 2)


ATTRIBUTES = {
    "depthwise": ("d", {"in_channels": 4, "out_channels": 4, "groups": 4}),
    "depth multiplier": ("d", {"in_channels": 4, "out_channels": 8, "groups": 4}),
    "one output per group": ("d", {"in_channels": 4, "out_channels": 2, "groups": 2}),
    "grouped": ("d", {"in_channels": 4, "out_channels": 6, "groups": 2}),
    "transposed": ("b", {"in_channels": 5, "out_channels": 3, "groups": 1}),
    "batch norm": ("n", {"num_features": 4}),
    "instance norm without affine": ("n", {"num_features": 4}),
    "group norm": ("n", {"num_channels": 4, "num_groups": 2}),
    "layer norm": ("n", {"normalized_shape": (4,)}),
    "layer norm without affine": ("n", {"normalized_shape": (4,)}),
    "layer norm over channels and space": ("n", {"normalized_shape": (4, 8, 8)}),
    "layer norm over all, no affine": ("n", {"normalized_shape": (4, 8, 8)}),
    "channels last": ("n", {"normalized_shape": (4,)}),
    "root mean square norm": ("n", {"normalized_shape": (4,)}),
    "prelu": ("p", {"num_parameters": 4}),
    "one slope for all": ("p", {"num_parameters": 1}),
    "embedding": ("e", {"num_embeddings": 10, "embedding_dim": 4}),
    "linear after flatten": ("f", {"in_features": 256, "out_features": 5}),
    "kept whole, layers inside": ("m.d", {"in_channels": 4, "groups": 4}),
    "layer by keyword": ("d", {"in_channels": 4, "groups": 4}),
    "one image": ("c", {"in_channels": 4, "out_channels": 5}),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_follow_the_widths(name):
    path, wanted = ATTRIBUTES[name]
    layer = halved(name).get_submodule(path)
    assert {key: getattr(layer, key) for key in wanted} == wanted


def test_one_slope_for_all_serves_channels_of_several_widths():
    layers = {"a": conv(3, 8), "b": conv(8, 12), "p": nn.PReLU(), "head": conv(12, 4)}
    net = Net(lambda s, x: s.head(s.p(s.b(s.p(s.a(x))))), **layers).double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    snapped, made = half_of(net, x)
    assert (made.a.out_channels, made.b.out_channels) == (4, 6)
    torch.testing.assert_close(made(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_layers_keep_their_kind_and_names():
    sample, made = SAMPLES["layers in a row"], halved("layers in a row")
    kinds = {name: type(layer) for name, layer in sample.net.named_modules() if name}
    # A container that only held layers is a plain module now.
    assert {name: type(layer) for name, layer in made.named_modules() if name} == {
        **kinds,
        "c": nn.Module,
        "c.2": nn.ReLU,
    }
    assert set(made.state_dict()) == set(sample.net.state_dict())


def test_the_model_is_not_touched():
    sample = SAMPLES["batch norm"]
    sample.net.train()
    sample.net.n.eval()
    before, modes = copy.deepcopy(sample.net.state_dict()), [module.training for module in sample.net.modules()]
    coupling = fxprune.couple(sample.net, sample.inputs)
    made = narrow_unequal(sample.net, even(coupling))
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.zero_()
    assert [module.training for module in sample.net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in sample.net.state_dict().items())
    assert made.training and made.a.training and not made.n.training
    sample.net.eval()


def test_merging_channels_that_differ_warns_and_says_where():
    sample = SAMPLES["batch norm"]
    plan = even(fxprune.couple(sample.net, sample.inputs))
    with pytest.warns(UnequalClustersWarning, match=r"moves a row of `[\w.]+` by [\d.]+ of the size") as seen:
        made = narrow(sample.net, plan)
    assert len(seen) == 1 and seen[0].filename == __file__
    snapped = snap(sample.net, plan)
    assert made.meta["max_change"] == snapped.max_change > 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert narrow(snapped, plan).meta["max_change"] == 0.0


def test_merging_computed_weights_that_differ_warns():
    sample = SAMPLES["computed weight"]
    plan = even(fxprune.couple(sample.net, sample.inputs))
    with pytest.warns(UnequalClustersWarning):
        made = narrow(sample.net, plan)
    assert made.meta["max_change"] == snap(sample.net, plan).max_change


def test_parameters_keep_their_gradient_flags_and_types():
    sample = SAMPLES["one weight in two layers"]
    model = copy.deepcopy(sample.net)
    model.b.weight.requires_grad_(False)
    made = narrow_unequal(model, even(fxprune.couple(model, sample.inputs)))
    assert not made.b.weight.requires_grad and made.a.weight.requires_grad
    assert made.c.weight is made.d.weight
    model.half()
    assert narrow_unequal(model, even(fxprune.couple(model, sample.inputs[0].half()))).a.weight.dtype == torch.float16


def test_the_narrow_network_trains():
    made = halved("batch norm").train()
    assert made.n.training
    before = made.n.running_mean.clone()
    made(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert not torch.equal(made.n.running_mean, before)
    assert not made.eval().n.training


@pytest.mark.parametrize(
    "name",
    ["residual", "depthwise", "grouped", "squeeze and excitation", "attention", "cat", "group norm of one group"],
)
def test_the_narrow_network_can_be_narrowed_again(name):
    sample = SAMPLES[name]
    wide = randomised(sample.net).double().eval()
    inputs = tuple(torch.randn(x.shape, dtype=torch.float64) for x in sample.inputs)
    once = narrow_unequal(wide, even(fxprune.couple(wide, inputs)))
    coupling = fxprune.couple(once, inputs)
    plan = even(coupling)
    assert {group.name: group.width for group in coupling.groups.values()}.items() >= {
        group: -(-width // 2) for group, width in sample.widths.items() if width % 4 == 0
    }.items()
    twice = narrow_unequal(once, plan)
    report = verify(snap(once, plan), twice, inputs, tolerance=1e-9, batches=(1, 3))  # the second oracle
    assert report.passed, report
    assert_layers_tell_the_truth(twice)


def test_a_plan_serves_other_weights_and_other_instances():
    sample = SAMPLES["residual"]
    plan = even(fxprune.couple(sample.net, sample.inputs))
    other = randomised(sample.net, seed=3).double().eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert verify(snap(other, plan), narrow_unequal(other, plan), images, tolerance=1e-9).passed
    with pytest.raises(PlanError, match="another network"):
        narrow_unequal(SAMPLES["depthwise"].net, plan)


def test_what_is_never_used_is_left_out_and_what_does_not_narrow_is_the_same():
    sample = SAMPLES["never used"]
    made = halved("never used")
    assert {name.partition(".")[0] for name in made.state_dict()} == {"a", "b", "head"}
    assert torch.equal(made.head.bias, sample.net.head.bias) and made.head.bias is not sample.net.head.bias


def test_the_plan_goes_with_the_narrow_network():
    sample = SAMPLES["residual"]
    plan = even(fxprune.couple(sample.net, sample.inputs))
    assert narrow_unequal(sample.net, plan).meta["plan"] == plan


def test_a_plan_that_merges_nothing_gives_the_same_network():
    sample = SAMPLES["residual"]
    images = torch.randn(2, 3, 8, 8)
    made = narrow_unequal(sample.net, Plan(fxprune.couple(sample.net, sample.inputs), {}))
    assert torch.equal(made(images), sample.net(images))


def test_a_narrow_network_drops_out_in_training_as_the_wide_one_does(tmp_path):
    net = Net(
        lambda s, x: s.out(F.dropout(s.a(x).relu(), 1.0, s.training)), a=linear(8, 12), out=linear(12, 4)
    ).eval()  # fmt: skip
    tokens = torch.randn(2, 5, 8)
    narrow = narrow_unequal(net, fxprune.plan(fxprune.couple(net, tokens), keep=0.5))
    assert (narrow(tokens) != net.out.bias).any()
    assert torch.equal(narrow.train()(tokens), net.out.bias.expand(2, 5, 4))
    report = fxprune.export_onnx(narrow.eval(), tokens, tmp_path / "narrow.onnx", batches=(1, 3))
    assert report.max_rel_error < 1e-5  # float32


def test_a_projected_lstm_as_wide_as_its_projection_is_refused():
    sample = SAMPLES["recurrent, projected"]
    net, tokens = randomised(sample.net).double(), torch.randn(2, 5, 3, dtype=torch.float64)
    coupling = fxprune.couple(net, tokens)
    widths = {"m.weight_ih_l0": 4, "m.weight_hr_l0": 4}
    with pytest.raises(PlanError, match="layer `m` would have 4 channels inside and as many projected ones"):
        narrow_unequal(net, fxprune.plan(coupling, widths=widths))
    wider = fxprune.plan(coupling, widths={**widths, "m.weight_ih_l0": 5})
    assert verify(snap(net, wider), narrow_unequal(net, wider), tokens, tolerance=1e-9).passed  # the second oracle


def test_another_permutation_of_channels_needs_another_plan():
    sample = SAMPLES["index of a sum with itself"]
    net = copy.deepcopy(sample.net)
    plan = fxprune.plan(fxprune.couple(net, sample.inputs), keep=0.5)
    net.k.turned.copy_(net.k.turned.roll(3))
    with pytest.raises(PlanError, match="buffers hold other values"):
        narrow(net, plan)


def test_the_network_that_was_narrowed_first_stays_the_origin():
    net = Net(lambda s, x: s.b(s.a(x)), a=conv(3, 16), b=conv(16, 4)).eval()
    x, made = torch.randn(2, 3, 4, 4), []
    for _ in range(3):
        made.append(half_of(made[-1] if made else net, x)[1])
        made[0].meta["spec"] = "how it is built"
    assert [each.meta.get("origin") for each in made] == [None, "how it is built", "how it is built"]
