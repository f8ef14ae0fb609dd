"""A fold is the plain merge where rows are equal, and nearer to the wide network where they are not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers.tiny import planned
from samples import SAMPLES
from torch import nn

import fxprune
from fxprune.common.torch_private import ConvNd, pytree
from fxprune.errors import DataError, ModelError, OptionError
from fxprune.passes.merge import snap
from fxprune.passes.repair import align_norms, repair
from fxprune.passes.rewrite import merged_by
from fxprune.passes.verify.batches import as_inputs, random_batch
from fxprune.passes.verify.prove import scattered
from fxprune.passes.verify.randomise import randomised


def images(count=48, size=8):
    return torch.randn(count, 1, size, size)


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


# A third of the samples, for time, and those that were once refused or wrong. Layers of many small steps take a minute.
ONCE_WRONG = ("matrix times vector", "gather", "there and back", "batch and channels merged")
THIRD = dict.fromkeys([*[name for name in SAMPLES if "recurrent" not in name][::3], *ONCE_WRONG])


@pytest.mark.parametrize("name", THIRD)
def test_every_sample_is_nearer_or_the_plain_merge(name):
    """Shapes hold, numbers are finite, and the error on inputs held back is not larger than that of the bare merge."""
    sample = SAMPLES[name]
    model = randomised(sample.net).eval()
    inputs = random_batch(as_inputs(sample.inputs), 24, seed=1)
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


def block(*layers):
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), *layers).eval()


READERS = {
    "convolution": lambda: block(nn.Conv2d(12, 4, 3)),
    "grouped": lambda: block(nn.Conv2d(12, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 4, 1)),
    "depthwise": lambda: block(nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 4, 1)),
    "transposed": lambda: block(nn.ConvTranspose2d(12, 4, 3, stride=2)),
    "linear": lambda: block(nn.Flatten(), nn.Linear(12 * 64, 5)),
    "normalised": lambda: block(nn.Conv2d(12, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_of_every_kind_are_fitted(name):
    model = READERS[name]()
    x = images(800 if name == "linear" else 96)  # a linear layer sees one position of each image, and has 384 features
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    assert small.meta["errors"]["readers"] < 0.5 * small.meta["errors"]["none"]
    fitted = {each.layer for each in small.meta["repairs"] if each.note.startswith("ridge")}
    readers = [key for key, layer in model.named_children() if isinstance(layer, (ConvNd, nn.Linear)) and key != "0"]
    assert fitted >= {f"{key}.weight" for key in readers}


class Twice(nn.Module):
    """One convolution reads two maps."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.reader = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.reader(self.first(x).relu()), self.reader(self.second(x).relu())


def test_a_shared_layer_is_fitted_to_all_its_calls():
    model = Twice().eval()
    x = images(96)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    assert small.meta["errors"]["readers"] < 0.5 * small.meta["errors"]["none"]
    assert [each.layer for each in small.meta["repairs"]].count("reader.weight") == 1


def test_many_features_are_fitted_in_blocks(monkeypatch):
    from fxprune.passes.repair import layers

    model = READERS["linear"]()
    x = images(200)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    whole = fxprune.fold(model, plan, [x]).meta["errors"]
    monkeypatch.setattr(layers, "MOST_FEATURES", 100)
    blocks = fxprune.fold(model, plan, [x]).meta["errors"]
    assert blocks["readers"] < 0.7 * blocks["none"] == 0.7 * whole["none"]


def test_a_layer_makes_up_for_what_other_addends_lack():
    """The last layer of a branch sees the error of the stream that it is added to."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch = nn.Linear(6, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.stem(x)
            return x + self.branch(x)

    model = Residual().double().eval()
    x = torch.randn(128, 6, dtype=torch.float64)
    net = nn.Sequential(model, nn.Linear(8, 3).double()).eval()
    plan = scattered(fxprune.couple(net, x[:2]), keep=0.5, seed=0)
    found = {each.layer: each for each in fxprune.fold(net, plan, [x]).meta["repairs"]}
    assert found["0.branch.weight"].after < found["0.branch.weight"].before


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
    assert fxprune.fold(tokens, plan).meta["repair"] == "variance"


def test_removed_channels_are_repaired_too():
    """What is kept stands for itself alone, not for the mean of a cluster."""
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


BAD = {
    "no such repair": (lambda x: {"repair": "magic"}, OptionError, "no repair `magic`"),
    "a repair that needs images": (lambda x: {"repair": "readers"}, OptionError, "needs `batches`"),
    "no images": (lambda x: {"batches": []}, DataError, "no images"),
    "another size": (lambda x: {"batches": [x[..., :4]]}, DataError, r"float32 \[48, 1, 8, 4\]"),
    "other channels": (lambda x: {"batches": [x.repeat(1, 3, 1, 1)]}, DataError, "float32"),
    "labels, too": (lambda x: {"batches": [(x, torch.zeros(48, dtype=torch.int64))]}, DataError, "int64"),
    "a NaN": (lambda x: {"batches": [x / 0 * 0]}, DataError, "NaN"),
    "variance from images": (lambda x: {"batches": [x], "repair": "variance"}, OptionError, "no `batches`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name):
    given, error, says = BAD[name]
    model, plan = planned()
    with pytest.raises(error, match=says):
        fxprune.fold(model, plan, **given(images()))


def test_an_activation_that_is_no_number_is_an_error():
    model, plan = planned()
    with torch.no_grad():
        model.head.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="infinity"):
        fxprune.fold(model, plan, [images()])


def test_a_network_with_two_inputs_is_repaired_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.norm = nn.Linear(5, 8), nn.Linear(4, 8), nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 3)

        def forward(self, x, y):
            return self.head(self.norm(self.left(x) + self.right(y)).relu())

    model, inputs = Two().eval(), {"x": torch.randn(80, 5), "y": torch.randn(80, 4)}
    example = {name: x[:2] for name, x in inputs.items()}
    plan = fxprune.plan(fxprune.couple(model, example), keep=0.5, cluster="outputs", batches=[inputs])
    errors = fxprune.fold(model, plan, [inputs]).meta["errors"]
    assert set(errors) == {"none", "statistics", "readers"} and errors["readers"] < errors["none"]


def test_inputs_get_the_dtype_of_the_network():
    model, _ = planned()
    model = model.double()
    x = images()
    coupling = fxprune.couple(model, x[:2].double())
    plan = fxprune.plan(coupling, keep=0.5, cluster="activations", batches=[x])
    assert fxprune.fold(model, plan, [x]).meta["errors"]["readers"] < 1


NORMS = {
    "group norm": lambda: nn.GroupNorm(4, 16),
    "layer norm": lambda: nn.GroupNorm(1, 16),
    "batch norm": lambda: nn.BatchNorm2d(16),
}


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_behind_a_layer_does_not_mislead_the_fit(norm):
    """What ignores a common shift of all channels is no addition with a factor."""
    layers = [layer for width in (1, 16) for layer in (nn.Conv2d(width, 16, 3, padding=1), NORMS[norm](), nn.ReLU())]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)).eval()
    x = images(128)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    found = fxprune.fold(model, plan, [x])
    assert found.meta["errors"]["readers"] < 0.8 * found.meta["errors"]["none"]
    assert all(each.after <= each.before < 10 for each in found.meta["repairs"])


def test_a_softmax_behind_a_layer_does_not_mislead_the_fit():
    model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5), nn.Softmax(1)).eval()
    x = torch.randn(128, 6)
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    errors = fxprune.fold(model, plan, [x]).meta["errors"]
    assert errors["readers"] < errors["none"]


class Branches(nn.Module):
    """Two branches that are added, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.head, self.in_place = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3), in_place

    def forward(self, x):
        x = self.stem(x).relu()
        y, z = self.left(x), self.norm(self.right(x))
        if self.in_place:
            y += z
        else:
            y = y + z
        return self.head(y.relu())


def test_an_addition_in_place_is_fitted_like_any_other():
    x, errors = images(96), []
    for in_place in (False, True):
        torch.manual_seed(3)
        model = Branches(in_place).eval()
        plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
        errors.append(fxprune.fold(model, plan, [x]).meta["errors"])
    assert errors[0] == errors[1]


def test_a_network_that_writes_to_its_input_leaves_the_images_alone():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 3, 3)

        def forward(self, x):
            return self.second(self.first(x.mul_(0.5)).relu())

    model, x = Scaled().eval(), images(64)
    before = x.clone()
    plan = fxprune.plan(fxprune.couple(model, x[:2].clone()), keep=0.5, cluster="outputs", batches=[x])
    errors = fxprune.fold(model, plan, [x]).meta["errors"]
    assert torch.equal(x, before) and errors["readers"] < errors["none"]


def test_inputs_that_are_not_by_sample_stay_whole():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x, mask):
            return self.second((self.first(x) * mask[:, None]).relu())

    model, x, mask = Masked().eval(), torch.randn(128, 40, 8), torch.rand(40)
    plan = fxprune.plan(fxprune.couple(model, (x[:2], mask)), keep=0.5, cluster="outputs", batches=[(x, mask)])
    errors = fxprune.fold(model, plan, [(x, mask)]).meta["errors"]
    assert errors["readers"] < errors["none"]
    with pytest.raises(DataError, match=r"float32 \[39\]"):
        fxprune.fold(model, plan, [(x, mask[:39])])


def test_a_weight_that_others_read_too_keeps_its_columns():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            x = self.table(x)
            return torch.nn.functional.linear(self.down(self.up(x).relu()), self.table.weight)

    model, x = Tied().eval(), torch.randint(11, (96, 5))
    plan = scattered(fxprune.couple(model, x[:2]), keep=0.5, seed=0)
    small = fxprune.fold(model, plan, [x])
    notes = {each.layer: each.note for each in small.meta["repairs"]}
    assert notes["table.weight"] == "used in several forms: keeps its summed columns"


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (33, 8), (64, 16), (100, 25)])
def test_a_quarter_is_held_back(count, held):
    from fxprune.passes.calibration import calibration

    _, plan = planned()
    found = calibration([images(count)], plan.coupling)
    assert sum(len(batch[0]) for batch in found.held) == held
    assert sum(len(batch[0]) for batch in found.batches) == count - held


def test_one_image_is_too_few():
    model, plan = planned()
    with pytest.raises(DataError, match="two inputs or more"):
        fxprune.fold(model, plan, [images(1)])
    assert fxprune.fold(model, plan, [images(1)], repair="none").meta["repair"] == "none"


def test_two_images_are_enough_to_run():
    model, plan = planned()
    small = fxprune.fold(model, plan, [images(2)])
    assert torch.isfinite(small(images())).all()
