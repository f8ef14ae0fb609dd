"""A parameter is the same to a graph, whether the model's code names it or gets it from a list."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from helpers.networks.middle import IMAGES, Small
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture import SymbolicTracer, capture
from fxprune.errors import CaptureError, NothingToPruneError

READS = {
    "parameters": lambda s: next(s.b.parameters()),
    "named_parameters": lambda s: dict(s.named_parameters())["b.weight"],
    "state_dict": lambda s: s.state_dict()["b.weight"],
    "table": lambda s: s.b._parameters["weight"],
    "modules": lambda s: [each for each in s.modules() if isinstance(each, nn.Conv2d)][1].weight,
    "buffers": lambda s: next(s.bn.buffers()),
}


class Listed(nn.Module):
    """Holds its weight in a list, too, and reads numbers of it without a history."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(3, 8), nn.Linear(8, 4)
        self.held = [self.a.weight]

    def forward(self, x):
        return self.head(nn.functional.linear(x, self.held[0]).relu()) * dict(self.named_parameters())["head.bias"].data


def test_a_weight_in_a_list_is_that_of_its_layer():
    x, model = torch.randn(2, 3), Listed().eval()
    plan = fxprune.plan(fxprune.couple(model, x), keep=0.5, method="even")
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert narrow.head.in_features == 4
    torch.testing.assert_close(narrow(x), snapped(x))


@pytest.mark.parametrize("name", READS)
def test_what_is_computed_from_a_parameter_follows_it(name):
    model = Small(lambda s, y: y + READS[name](s).square().mean()).eval()
    graph = capture(model, (IMAGES,))
    with torch.no_grad():
        READS[name](model).mul_(3.0)
        torch.testing.assert_close(graph(IMAGES), model(IMAGES))


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_trace_a_model_has_its_own_tensors_again(fails):
    def middle(s, y):
        return y * s.b.weight.sum() if not fails or y.shape[0] > 5 else None

    model = Small(middle).eval()
    held = dict(model.named_parameters())
    with pytest.raises(Exception, match="control flow") if fails else contextlib.nullcontext():
        SymbolicTracer((IMAGES,)).trace(model)
    assert all(each is held[name] for name, each in model.named_parameters())
    assert all(type(each) in (nn.Parameter, torch.Tensor) for each in model.state_dict(keep_vars=True).values())


COPIES = {
    "weight": lambda s: copy.deepcopy(s.b.weight),
    "listed": lambda s: copy.deepcopy(next(s.b.parameters())),
    "shallow": lambda s: copy.copy(s.b.weight),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_parameter_follows_it(name):
    model = Small(lambda s, y: y + COPIES[name](s).mul(2).mean()).eval()
    graph = capture(model, (IMAGES,))
    assert graph.meta["fxprune_capture"] != "export"
    with torch.no_grad():
        model.b.weight.mul_(3.0)
        torch.testing.assert_close(graph(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", READS)
def test_a_branch_on_the_type_of_a_parameter_is_guarded(name):
    model = Small(lambda s, y: y * 2 if READS[name](s).dtype == torch.float32 else y).eval()
    graph = capture(model, (IMAGES,))
    assert torch.equal(graph(IMAGES), model(IMAGES))
    with pytest.raises(SpecialisedError, match="captured where"):
        copy.deepcopy(graph).double()(IMAGES.double())


TYPES = {
    "another legacy type": lambda s, y: isinstance(y, torch.DoubleTensor),
    "several legacy types": lambda s, y: isinstance(y, (torch.HalfTensor, torch.DoubleTensor)),
    "legacy type of a weight": lambda s, y: isinstance(s.b.weight, torch.DoubleTensor),
    "legacy type of a parameter": lambda s, y: isinstance(next(s.parameters()), torch.DoubleTensor),
    "text of a type": lambda s, y: "Double" in y.type(),
    "text of a type, equal": lambda s, y: y.type() == "torch.DoubleTensor",
    "default type": lambda s, y: y.dtype != torch.get_default_dtype(),
    "type as": lambda s, y: torch.ones(1).type_as(y).dtype == torch.float64,
}


@pytest.mark.parametrize("name", TYPES)
def test_no_branch_on_a_type_goes_unguarded(name):
    model = Small(lambda s, y: y * 2 if TYPES[name](s, y) else y + 1).eval()
    graph = capture(model, (IMAGES,))
    assert torch.equal(graph(IMAGES), model(IMAGES))
    with pytest.raises(SpecialisedError, match="captured where"):
        copy.deepcopy(graph).double()(IMAGES.double())


def test_an_export_is_bound_to_the_precision_of_its_weights():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 4)

        def forward(self, x):
            y = self.head(self.table(x))
            return y * 2 if self.head.weight.dtype == torch.float32 else y

    graph = capture(Words().eval(), (torch.arange(6).view(2, 3),), ways=("export",))
    with pytest.raises(SpecialisedError, match="precision of"):
        graph.double()(torch.arange(6).view(2, 3))


def test_a_constant_that_is_made_of_a_weight_elsewhere_is_refused():
    model = Small().eval()
    weight = model.b.weight
    model.middle = lambda s, y: y * weight.square().sum()
    with pytest.raises(CaptureError, match="a tensor of its own that it does not read by its name"):
        fxprune.couple(model, IMAGES)


def test_a_trace_that_breaks_off_leaves_the_default_type_as_it_was():
    def middle(s, y):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        third = torch.full((1,), 1 / 3)
        torch.set_default_dtype(before)
        return y * third.to(y.dtype)

    capture(Small(middle).eval(), (IMAGES,))
    assert torch.get_default_dtype() == torch.float32


def test_tensors_in_a_list_are_constants_of_the_graph():
    model = Small(lambda s, y: y + s.tables[0]).eval()
    model.tables = [torch.randn(8, 8)]
    assert torch.equal(capture(model, (IMAGES,))(IMAGES), model(IMAGES))


LAYOUTS = {
    "stride": lambda y: y.stride()[0],
    "stride(dim)": lambda y: y.stride(0) > 300,
    "offset": lambda y: y[:, 4:].storage_offset(),
    "bytes": lambda y: y.nbytes // 1000,
    "memory": lambda y: y.untyped_storage().nbytes() // 1000,
    "elements in memory": lambda y: y.untyped_storage().size() // 1000,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_channels_that_strides_count_are_frozen(name):
    coupling = fxprune.couple(Small(lambda s, y: y * LAYOUTS[name](y)).eval(), IMAGES)
    with pytest.raises(NothingToPruneError, match="strides or offsets"):
        fxprune.plan(coupling, keep=0.5)


def test_kernel_axes_of_a_weight_that_is_read_elsewhere_do_not_merge():
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding="same")
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            y = self.b(self.a(x).relu()).relu()
            return self.fc(y.mean((2, 3))) + self.b.weight.abs().sum()

    model = Penalised().double().eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES.double()), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert fxprune.verify(snapped, narrow, IMAGES.double(), tolerance=1e-9).passed  # float64


class Fused(nn.Module):
    """Sums two convolutions into the weight of a third at each call in eval mode (SPAN)."""

    def __init__(self, reads_before=False, reads_in_training=False):
        super().__init__()
        self.one, self.two, self.both = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.reads = reads_before, reads_in_training

    def forward(self, x):
        before, in_training = self.reads
        if self.training:
            return self.both(x) if in_training else self.one(x) + self.two(x)
        x = self.both(x) if before else x
        self.both.weight.data = self.one.weight.data.clone() + self.two.weight.detach()
        self.both.bias.data = self.one.bias.data + self.two.bias.data
        return self.both(x).relu_()


def _with(layer):
    model = Small(lambda s, y: s.layer(y))
    model.layer = layer
    return model


def test_a_weight_that_each_call_sets_is_computed():
    model = _with(Fused()).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = capture(model, (IMAGES,))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(str(node.target).startswith("layer.both") for node in graph.graph.nodes if node.users)
    proof = fxprune.prove(model, IMAGES)
    assert proof.passed and proof.plan.coupling.share_prunable > 0.9
    with torch.no_grad():
        model.layer.two.weight.mul_(3.0)
        torch.testing.assert_close(graph(IMAGES), model(IMAGES))


def test_a_weight_that_a_call_reads_before_it_sets_it_is_refused():
    with pytest.raises(CaptureError, match="sets the attribute `data` of a tensor"):
        fxprune.couple(_with(Fused(reads_before=True)).eval(), IMAGES)


def test_what_a_call_in_eval_mode_left_is_not_read_in_training():
    graph = capture(_with(Fused(reads_in_training=True)).eval(), (IMAGES,))
    with pytest.raises(RuntimeError, match="in training mode"):
        graph.train()(IMAGES)
