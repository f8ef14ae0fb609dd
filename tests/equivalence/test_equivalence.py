"""A model that Python, modes or hooks take elsewhere than its tensors is captured as it is, or refused."""

from __future__ import annotations

import gc
import random
import types

import pytest
import torch
import torch.nn.functional as F
from helpers.networks.middle import IMAGES, Small, drawn
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import WAY, capture
from fxprune.equivalence import differs
from fxprune.equivalence.comparison import UNCHECKED, difference
from fxprune.equivalence.mode_differences import _are_apart
from fxprune.errors import CaptureError
from fxprune.pytorch.modules import clone_sharing


def plus_one(y):
    y += 1
    return y


def halved(y):
    y *= 0.5
    return y


def tried(s, y):
    try:
        return y * int(y.shape[1])
    except TypeError:
        return y


def aliased(s, y):
    keep = y
    return keep + plus_one(y)


def view_of_it(s, y):
    view = y.flatten(2)
    return halved(y) + view.view(y.shape)


def cached(s, y):
    if getattr(s, "table", None) is None or s.table.shape != y.shape[2:]:
        s.table = torch.linspace(0, 1, y.shape[-1]).expand(y.shape[2:])
    return y * s.table


def buffer_cached(s, y):
    if s.last.shape[-1] != y.shape[-1]:
        s.last = torch.linspace(0, 1, int(y.shape[-1])).view(1, 1, -1).to(y.dtype)
    return y * s.last


def seen(s, y):
    s.mean = y.mean()
    return y


# What a plain trace takes for something else: the branch of `y * 2` is the model's.
CAPTURED = {
    "isinstance": lambda s, y: y * 2 if isinstance(y, torch.Tensor) else y,
    "is_tensor": lambda s, y: y * 2 if torch.is_tensor(y) else y,
    "torch.jit.isinstance": lambda s, y: y * 2 if torch.jit.isinstance(y, torch.Tensor) else y,
    "a legacy type": lambda s, y: y * 2 if isinstance(y, (int, torch.FloatTensor)) else y,
    "another legacy type": lambda s, y: y if isinstance(y, torch.DoubleTensor) else y * 2,
    "its class": lambda s, y: y * 2 if issubclass(y.__class__, torch.Tensor) else y,
    "callable": lambda s, y: y if callable(y) else y * 2,
    "hasattr": lambda s, y: y if hasattr(y, "tensors") else y * 2,
    "a size is a number": lambda s, y: y * 2 if isinstance(y.shape[1], int) else y,
    "sizes are a tuple": lambda s, y: y * 2 if isinstance(y.shape, tuple) else y,
    "a size, tried": tried,
    "another name": aliased,
    "a view": view_of_it,
    "an attribute set": lambda s, y: setattr(y, "factor", 2) or y * y.factor,
    "random numbers": lambda s, y: y + torch.rand(1),
    "finfo": lambda s, y: y.masked_fill(y > 1, torch.finfo(y.dtype).eps),
    "cache": cached,
    "a buffer as a cache": buffer_cached,
    "an attribute for others": seen,
    "training": lambda s, y: y * 2 if not s.training else y,
}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_does_what_the_model_does_twice_in_a_row(name):
    model = Small(CAPTURED[name]).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    for images in (IMAGES, IMAGES.flip(0) * 2):
        # float32, a network of four layers: sums of eight columns in another order.
        torch.testing.assert_close(drawn(narrow, images), drawn(snapped, images), rtol=1e-5, atol=1e-5)


def averaged(s, y):
    """A moving average in training, of which eval mode makes a new tensor with the same numbers."""
    s.last = s.last * 0.9 + y.detach().mean() if s.training else s.last + 0
    return y * s.last


@pytest.mark.parametrize(("uses", "stops"), [(buffer_cached, False), (cached, False), (averaged, True)])
def test_a_cache_is_no_reason_to_stop_in_training(uses, stops):
    model = Small(uses).eval()
    narrow = fxprune.narrow(model, fxprune.plan(fxprune.couple(model, IMAGES), keep=1.0))
    if stops:
        with pytest.raises(SpecialisedError, match="training"):
            narrow.train()(IMAGES)
    else:
        torch.testing.assert_close(drawn(narrow.train(), IMAGES), drawn(model.train(), IMAGES), rtol=1e-5, atol=1e-5)


def test_rounding_is_no_difference_and_a_cast_to_float32_is_one():
    x = torch.rand(100, dtype=torch.float64) + 1
    assert differs(x, x * (1 + 5e-12)) == ""
    assert differs(x, x.float().double())


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_outputs_in_another_precision_are_apart_by_their_own_size(scale):
    x = scale * torch.linspace(1, 2, 8)
    x[3] = float("nan")
    for same in (x, x * 1.05, x.clone().nan_to_num(0)):
        assert not _are_apart([x, 0], [same, 1])
    for other in (x * 1.5, x * 0.5, -x, x[:4], x.double(), x.nan_to_num(2 * scale)):
        assert _are_apart([x], [other])
    assert _are_apart([x], [x, x])
    for plain in (torch.zeros(3), torch.zeros(0), torch.arange(3)):
        assert not _are_apart([plain], [plain + (not plain.is_floating_point())])


def test_a_scripted_part_keeps_its_weights(recwarn):
    model = Small().eval()
    model.b = torch.jit.script(model.b)
    captured = fxprune.couple(model, IMAGES).graph_module
    assert captured.state_dict().keys() == model.state_dict().keys() - {"last"}
    doubled = {name: 2 * tensor for name, tensor in captured.state_dict().items()}
    before = captured(IMAGES)
    captured.load_state_dict(doubled)
    assert not torch.equal(captured(IMAGES), before)
    recwarn.clear()  # PyTorch warns that scripting is on its way out


def test_nothing_of_the_callers_is_changed():
    model = Small(lambda s, y: F.dropout(y, 0.5, s.training)).train()
    model.bn.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    fxprune.couple(model, IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert model.training and not model.bn.training
    assert gc.isenabled()


def typed(s, y):
    return y * 2 if type(y) is torch.Tensor else y


def test_weights_of_zero_hide_nothing():
    model = Small(typed).eval()
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(CaptureError, match="computes something else"):
        fxprune.couple(model, IMAGES)


def test_what_cannot_be_compared_is_said():
    meta = Small().to("meta").eval()
    coupling = fxprune.couple(meta, IMAGES.to("meta"))
    assert "meta device" in coupling.graph_module.meta[UNCHECKED]
    assert "not compared with the model: weights on the meta device" in str(coupling)
    assert fxprune.couple(Small().eval(), IMAGES).graph_module.meta[UNCHECKED] == ""


def test_the_comparison_can_be_turned_off_by_name():
    coupling = fxprune.couple(Small(typed).eval(), IMAGES, check=False)
    assert coupling.graph_module.meta[WAY] == "symbolic"
    assert "not compared with the model: it was not asked for" in str(coupling)


def test_a_model_that_does_not_run_on_the_example_says_so_itself():
    with pytest.raises(CaptureError, match=r"Small does not run on inputs \[\(2, 4, 8, 8\)\]: RuntimeError"):
        fxprune.couple(Small(), torch.zeros(2, 4, 8, 8))


def test_layers_that_the_model_keeps_in_eval_mode_are_not_trained_by_the_graph():
    class Frozen(Small):
        def train(self, mode=True):
            super().train(mode)
            self.bn.eval()
            return self

    captured = capture(Frozen().eval(), (IMAGES,))
    captured(IMAGES)
    with pytest.raises(SpecialisedError, match="does something else in training mode"):
        captured.train()(IMAGES)


def test_a_forward_of_the_instance_is_the_one_that_counts():
    model = Small().eval()
    model.forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 2, model)
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    wanted = drawn(fxprune.snap(model, plan), IMAGES)
    torch.testing.assert_close(
        drawn(fxprune.narrow(fxprune.snap(model, plan), plan), IMAGES), wanted, rtol=1e-5, atol=1e-5
    )  # float32


BROKEN = {
    "output": lambda module: module.fc.bias.data.add_(0.01),
    "a buffer that is written": lambda module: module.bn.register_forward_hook(lambda m, *_: m.running_mean.add_(1)),
    "random numbers": lambda module: module.fc.register_forward_hook(lambda *_: torch.rand(1) and None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_comparison_sees_each_kind_of_difference(name):
    model = Small().eval()
    captured = capture(model, (IMAGES,))
    assert difference(model, captured, (IMAGES,)).always == ""
    other = clone_sharing(captured)
    other.fc.bias = nn.Parameter(other.fc.bias.clone())
    BROKEN[name](other)
    assert difference(model, other, (IMAGES,)).always
