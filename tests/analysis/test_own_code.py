"""Code that is not PyTorch's may state a width, under whatever name it runs."""

import contextlib

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fxprune
from fxprune.errors import CaptureError, NothingToPruneError

IMAGES = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.a, self.middle, self.b = nn.Conv2d(3, 8, 3), middle, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(self.middle(self.a(x)))


class Divided(nn.Module):
    def forward(self, x):
        return x / x.shape[1]


class Doubled(nn.Module):
    def forward(self, x):
        return x.relu() * 2


class Operator(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return getattr(torch.ops.fxprune_own_code, self.name)(x)


class Method(Operator):
    def forward(self, x):
        return getattr(x, f"own_{self.name}")()


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * self.weight.shape[0]


class Shifted(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + self.running_mean.numel()


class Rectified(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).relu()


class Halved(nn.Module):
    def forward(self, weight):
        return weight * 0.5


@pytest.fixture(autouse=True)
def library(monkeypatch):
    made = torch.library.Library("fxprune_own_code", "DEF")
    for name, function in {"divided": Divided(), "doubled": Doubled()}.items():
        made.define(f"{name}(Tensor x) -> Tensor")
        made.impl(name, function.forward, "CompositeImplicitAutograd")
        method = lambda x, function=function: function.forward(x)  # noqa: E731  (a bound method takes no tensor)
        monkeypatch.setattr(torch.Tensor, f"own_{name}", method, raising=False)
    yield
    made._destroy()


def halved(layer):
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


STATE_A_WIDTH = {
    "an operator": lambda: Operator("divided"),
    "a method": lambda: Method("divided"),
    "a script": lambda: torch.jit.script(Divided()),
    "a trace": lambda: torch.jit.trace(Divided(), torch.randn(2, 8, 4, 4)),
    "a layer with weight_norm": lambda: parametrizations.weight_norm(Scaled(8, 8, 1)),
    "a layer with a parametrization": lambda: halved(Shifted(8)),
}
STATE_NONE = {
    "an operator": lambda: Operator("doubled"),
    "a method": lambda: Method("doubled"),
    "a script": lambda: torch.jit.script(Doubled()),
    "a layer with weight_norm": lambda: parametrizations.weight_norm(Rectified(8, 8, 1)),
    "a layer with a parametrization": lambda: halved(Rectified(8, 8, 1)),
}


@torch.no_grad()
def error(make):
    """Return the largest error of half of the channels, relative to the largest value."""
    net = Net(make()).double().eval()
    plan = fxprune.plan(fxprune.couple(net, IMAGES), keep=0.5)
    snapped = fxprune.snap(net, plan)
    wide = snapped(IMAGES)
    return (fxprune.narrow(snapped, plan)(IMAGES) - wide).abs().max() / wide.abs().max()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", STATE_A_WIDTH)
def test_code_that_states_a_width_keeps_its_channels(name):
    with contextlib.suppress(NothingToPruneError):  # what enters and does not leave may merge
        assert error(STATE_A_WIDTH[name]) < 1e-12  # float64


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", STATE_NONE)
def test_code_that_states_no_width_is_no_obstacle(name):
    assert error(STATE_NONE[name]) < 1e-12  # float64


class Named(torch.Tensor):
    """PyTorch gives the results of its operators this class, too."""


class Own(nn.Module):
    def __init__(self, scale):
        super().__init__()
        register = self.register_parameter if isinstance(scale, nn.Parameter) else self.register_buffer
        register("scale", scale)

    def forward(self, x):
        return x * self.scale


STORED = {"parameter": lambda x: nn.Parameter(x.as_subclass(Named)), "buffer": lambda x: x.as_subclass(Named)}


@pytest.mark.parametrize("kind", STORED)
def test_stored_tensors_of_a_class_with_operators_of_its_own_are_refused(kind):
    """Labels were lost in what they meet, so that the graph was narrowed where it may not be."""
    net = Net(Own(STORED[kind](torch.rand(8, 1, 1, dtype=torch.float64)))).double().eval()
    with pytest.raises(CaptureError, match=r"scale` is a tensor of class `Named`, which may have operators of its own"):
        fxprune.couple(net, IMAGES)


def test_inputs_of_such_a_class_are_refused():
    net = Net(nn.ReLU()).double().eval()
    with pytest.raises(CaptureError, match=r"^`a` .* returns a tensor of class `Named`, .*: give a plain one"):
        fxprune.couple(net, IMAGES.as_subclass(Named))


def test_a_class_of_parameters_leaves_its_operators_to_pytorch():
    class Scale(nn.Parameter):
        pass

    assert fxprune.prove(Net(Own(Scale(torch.rand(8, 1, 1)))), IMAGES).passed


def test_reports_name_a_kept_function_and_not_its_place_in_memory():
    text = str(fxprune.couple(timm.create_model("test_vit").eval(), torch.randn(1, 3, 160, 160)))
    assert "enters or leaves `resample_abs_pos_embed`" in text
    assert " at 0x" not in text
