"""A lowered graph computes the same with PyTorch's own layers and functions, or one error names the node."""

from __future__ import annotations

import pytest
import timm.layers
import torch
import torchvision.ops
from torch import fx, nn

from fxprune.capture import capture
from fxprune.equivalence import RANK, difference
from fxprune.errors import ModelError
from fxprune.passes.lowering import layer_name, lower, methods, operator_name, operator_of

X = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(0))
L = timm.layers


class Learned(nn.Linear):
    """Its own forward, with a parameter that nn.Linear lacks."""

    def __init__(self, width):
        super().__init__(width, width)
        self.gain = nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.gain, self.bias)


class Noisy(nn.Linear):
    """Computes otherwise in training, in a way that no layer of PyTorch does."""

    def forward(self, x):
        return super().forward(x) * (3 if self.training else 1) - (x.mean() if self.training else 0)


class Hooked(nn.Conv2d):
    """A convolution whose output a hook changes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_forward_hook(lambda _, __, y: y * 2)


def padded_around(layer):
    """A convolution whose own padding an image generator replaces, as for textures that tile."""
    layer._conv_forward = lambda x, weight, bias: nn.functional.conv2d(
        nn.functional.pad(x, (1, 1, 0, 0), mode="circular"), weight, bias
    )
    return layer


LAYERS = {
    "norm": (L.LayerNorm2d(8), set()),
    "group norm": (L.GroupNorm1(8), {"torch.nn.GroupNorm"}),
    "norm and act": (
        L.BatchNormAct2d(8, act_layer=nn.GELU),
        {"torch.nn.BatchNorm2d", "torch.nn.Identity", "torch.nn.GELU"},
    ),
    "norm without act": (L.BatchNormAct2d(8, apply_act=False), {"torch.nn.BatchNorm2d"}),
    "same padding": (L.Conv2dSame(8, 4, 3, stride=2), set()),
    "standardised": (L.ScaledStdConv2d(8, 4, 3), set()),
    "max pool": (L.pool2d_same.MaxPool2dSame(3, 2), set()),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)), set()),
    "own parameter": (nn.Sequential(nn.Flatten(), Learned(288)), {"torch.nn.Flatten"}),
    "hook": (Hooked(8, 4, 3), set()),
    "own function": (padded_around(nn.Conv2d(8, 4, 3)), set()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_foreign_layers_become_layers_of_pytorch(name):
    layer, kinds = LAYERS[name]
    model = nn.Sequential(layer, nn.ReLU())
    captured = capture(model, (X,))
    lowered = lower(captured, (X,))
    called = {layer_name(lowered.get_submodule(node.target)) for node in lowered.graph.find_nodes(op="call_module")}
    assert called == kinds | {"torch.nn.ReLU"}
    assert all(operator_name(node.target) for node in lowered.graph.nodes if node.op == "call_function")
    found = difference(model, lowered, (X,), stated={RANK})  # which timm's layers ask for
    assert (found.always, found.in_training) == ("", "")


class Tied(nn.Module):
    """A weight that is computed in its layer, and again for the way back."""

    def __init__(self):
        super().__init__()
        self.there = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 1))

    def forward(self, x):
        return nn.functional.conv_transpose2d(self.there(x), self.there.weight)


def test_a_part_of_a_layer_that_is_replaced_may_be_called_alone():
    model = Tied().eval()
    captured = capture(model, (X,))
    lowered = lower(captured, (X,))
    assert {"there", "there.parametrizations.weight"} <= {node.target for node in captured.graph.nodes}
    assert not lowered.graph.find_nodes(op="call_module")
    assert torch.equal(lowered(X), model(X))


@pytest.mark.parametrize("layer", [L.DropPath(0.4), torchvision.ops.StochasticDepth(0.4, "row")], ids=["timm", "tv"])
def test_dropped_samples_stay_random(layer):
    lowered = lower(capture(nn.Sequential(layer), (X,)), (X,)).train()
    torch.manual_seed(0)
    runs = torch.stack([lowered(torch.ones(8, 2, 1, 1)) for _ in range(200)])
    assert runs.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert (runs[:, :, 0] == runs[:, :, 1]).all()  # samples are dropped whole
    # The share of 1,600 draws lies within 5 of its deviations of 0.012.
    assert float((runs[:, :, 0] == 0).float().mean()) == pytest.approx(0.4, abs=0.06)
    assert lowered.eval()(X).equal(X)


def test_dropped_samples_need_no_scale():
    lowered = lower(capture(nn.Sequential(L.DropPath(0.4, scale_by_keep=False)), (X,)), (X,)).train()
    torch.manual_seed(0)
    assert lowered(torch.ones(400, 2, 1, 1)).unique().tolist() == [0.0, 1.0]
    assert lowered.eval()(X).equal(X)


def test_what_training_does_otherwise_is_refused():
    model = nn.Sequential(Noisy(6, 6))
    with pytest.raises(ModelError, match=r"node `_0` \(call_module 0\) calls .*Noisy.*in training mode"):
        lower(capture(model, (X,)), (X,))


def double(x, times):
    return x.add(x) if times is None else x * times


def test_functions_of_libraries_are_replaced_by_what_they_call():
    graph = fx.Graph()
    x = graph.placeholder("x")
    nothing = graph.call_method("get", (graph.call_function(dict, ({"a": None},)), "a"))
    graph.output(graph.call_function(double, (x,), {"times": nothing}))
    module = fx.GraphModule(nn.Module(), graph)
    lowered = lower(module, (X,))
    assert lowered(X).equal(X + X)
    assert [node.target for node in lowered.graph.nodes][-2:] == ["add", "output"]


@pytest.mark.parametrize("function", [torch.save, torch.load, eval, exec, open, torch.from_file, torch.compile])
def test_what_runs_code_or_opens_files_is_not_listed(function):
    assert operator_name(function) is None


REFUSED = (
    *("from_file.default", "save.default", "set_.source_Tensor", "resize_.default", "manual_seed.default"),
    *("set_grad_enabled.default", "_sparse_coo_tensor_unsafe.default", "record_stream.default", "_print.default"),
)


@pytest.mark.parametrize("name", ["os.system", *(f"torch.ops.aten.{each}" for each in REFUSED)])
def test_names_of_such_functions_are_not_either(name):
    assert operator_of(name) is None


def test_methods_that_leave_the_graph_are_not_listed():
    assert not {"apply_", "map_", "backward", "numpy", "tolist", "set_", "share_memory_", "__reduce_ex__"} & methods()
