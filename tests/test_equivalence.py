"""A model that Python, modes, hooks or kept state take elsewhere than its tensors is captured as it is, or refused."""

from __future__ import annotations

import random
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune import observation
from fxprune.capture import WAY, capture
from fxprune.equivalence import UNCHECKED, difference
from fxprune.errors import CaptureError
from fxprune.guards import SpecialisedError
from fxprune.meta import share_copy

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Convolution, normalisation, what a case does with their maps, residual convolution, linear layer."""

    def __init__(self, middle=lambda s, y: y):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.middle = nn.Linear(8, 5), middle
        self.register_buffer("last", torch.zeros(8, 1, 1))

    def forward(self, x):
        y = self.middle(self, F.relu(self.bn(self.a(x))))
        return self.fc(F.relu(y + self.b(y)).mean((2, 3)))


def plus_one(y):
    y += 1
    return y


def halved(y):
    y *= 0.5
    return y


@torch.no_grad()
def without_gradients(s, y):
    return s.b(y)


@torch.autocast("cpu", enabled=False)
def in_full_precision(y):
    z = (y.float() * 300).flatten(2)
    return torch.bmm(z, z.mT).mean((1, 2))[:, None, None, None] / 1e5


def island(s, y):
    with torch.autocast(device_type=y.device.type, enabled=False):
        z = (y.float() * 300).flatten(2)
        z = torch.bmm(z, z.mT).mean((1, 2))[:, None, None, None] / 1e5
    return y + z.to(y.dtype)


def no_gradients(s, y):
    with torch.no_grad():
        z = s.b(y)
    return y + z


def gradients_set(s, y):
    with torch.set_grad_enabled(False):
        z = s.b(y)
    return y + z


def inference(s, y):
    with torch.inference_mode():
        z = s.b(y).mean()
    return y + z


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


def seen(s, y):
    s.mean = y.mean()
    return y


# What a plain trace takes for something else: the branch of `y * 2` is the model's.
CAPTURED = {
    "isinstance": lambda s, y: y * 2 if isinstance(y, torch.Tensor) else y,
    "is_tensor": lambda s, y: y * 2 if torch.is_tensor(y) else y,
    "torch.jit.isinstance": lambda s, y: y * 2 if torch.jit.isinstance(y, torch.Tensor) else y,
    "callable": lambda s, y: y if callable(y) else y * 2,
    "hasattr": lambda s, y: y if hasattr(y, "tensors") else y * 2,
    "a size is a number": lambda s, y: y * 2 if isinstance(y.shape[1], int) else y,
    "sizes are a tuple": lambda s, y: y * 2 if isinstance(y.shape, tuple) else y,
    "a size, tried": tried,
    "another name": aliased,
    "a view": view_of_it,
    "an attribute set": lambda s, y: setattr(y, "factor", 2) or y * y.factor,
    "island": island,
    "decorated island": lambda s, y: y + in_full_precision(y),
    "no_grad": no_gradients,
    "decorated no_grad": lambda s, y: y + without_gradients(s, y),
    "set_grad_enabled": gradients_set,
    "inference_mode": inference,
    "random numbers": lambda s, y: y + torch.rand(1),
    "finfo": lambda s, y: y.masked_fill(y > 1, torch.finfo(y.dtype).eps),
    "cache": cached,
    "an attribute for others": seen,
    "training": lambda s, y: y * 2 if not s.training else y,
}


def drawn(network, images):
    torch.manual_seed(1)
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_does_what_the_model_does_twice_in_a_row(name):
    model = Small(CAPTURED[name]).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    for images in (IMAGES, IMAGES.flip(0) * 2):
        # float32, a network of four layers: sums of eight columns in another order.
        torch.testing.assert_close(drawn(narrow, images), drawn(snapped, images), rtol=1e-5, atol=1e-5)


def counted(s, y):
    s.calls = getattr(s, "calls", 0) + 1
    return y


def streamed(s, y):
    z = y + s.last
    s.last = y.detach().mean((0, 2, 3))[:, None, None]
    return z


def remembered(s, y):
    z = y + getattr(s, "before", 0)
    s.before = y.detach().mean()
    return z


def listed(s, y):
    s.__dict__.setdefault("history", []).append(1)
    return y * len(s.history)


def assigned(s, y):
    s.b.weight.data = s.b.weight.data * 0.5
    return y


def clamped(s, y):
    s.b.weight.data.clamp_(-0.01, 0.01)
    return y


REFUSED = {
    "type": (lambda s, y: y * 2 if type(y) is torch.Tensor else y, r"output 0 differs .* first layer .* `b`"),
    "buffer": (streamed, r"`last` \(set at \S*test_equivalence.py:\d+\)"),
    "attribute": (remembered, r"keeps `before` \(set at \S*test_equivalence.py:\d+\) from one call to the next"),
    "list": (listed, "at a second call, output 0 differs"),
    "counter": (counted, "keeps `calls`"),
    "weight.data": (assigned, "sets the attribute `data` of a tensor"),
    "weight.data.clamp_": (clamped, "writes to its parameter `b.weight`"),
    "random": (lambda s, y: y + random.random(), "draws no random numbers, as the model does"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_does_is_refused_by_name(name):
    middle, reason = REFUSED[name]
    with pytest.raises(CaptureError, match=reason):
        fxprune.couple(Small(middle).eval(), IMAGES)


STOPS = {
    "dtype ==": (lambda s, y: y * 2 if y.dtype == torch.float32 else y, lambda net: net.double()(IMAGES.double())),
    "dtype is": (lambda s, y: y * 2 if y.dtype is torch.float32 else y, lambda net: net.double()(IMAGES.double())),
    "dtype in a table": (lambda s, y: y * {torch.float32: 2, torch.float64: 3}[y.dtype],
                         lambda net: net.double()(IMAGES.double())),
    "is_grad_enabled": (lambda s, y: y * 2 if torch.is_grad_enabled() else y, lambda net: net(IMAGES)),
    "autocast": (lambda s, y: y * 2 if torch.is_autocast_enabled("cpu") else y,
                 lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "device": (lambda s, y: y * 2 if y.device.type == "cpu" else y, lambda net: net.to("meta")(IMAGES.to("meta"))),
    "training": (lambda s, y: y if not s.training else s.b(y), lambda net: net.train()(IMAGES)),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_a_branch_that_would_be_another_one_stops_the_narrow_network(name):
    middle, run = STOPS[name]
    model = Small(middle).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)
    with torch.no_grad():
        narrow(IMAGES)
    with pytest.raises(SpecialisedError, match="captured "):
        run(narrow)


RANKS = {"ndim": lambda x: x.ndim, "dim()": lambda x: x.dim(), "len": lambda x: len(x.shape)}


@pytest.mark.parametrize("name", RANKS)
def test_another_number_of_dimensions_stops_the_narrow_network(name):
    rank = RANKS[name]

    class Ranked(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 4)

        def forward(self, x):
            y = self.one(x)
            return self.two(y * 2 if rank(y) == 2 else y)

    model = Ranked().eval()
    plan = fxprune.plan(fxprune.couple(model, torch.randn(5, 3)), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)
    assert narrow(torch.randn(4, 3)).shape == (4, 4)
    with pytest.raises(SpecialisedError, match="captured where"):
        narrow(torch.randn(2, 4, 3))


HOOKS = {
    "forward": lambda net: net.register_forward_hook(lambda module, args, out: out.softmax(-1)),
    "pre": lambda net: net.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
    "pre with names": lambda net: net.register_forward_pre_hook(
        lambda module, args, named: ((args[0] * 2,), named), with_kwargs=True
    ),
    "child": lambda net: net.bn.register_forward_hook(lambda module, args, out: out * 2),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_are_part_of_the_network(name):
    model = Small().eval()
    HOOKS[name](model)
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    wanted = drawn(fxprune.snap(model, plan), IMAGES)
    torch.testing.assert_close(
        drawn(fxprune.narrow(fxprune.snap(model, plan), plan), IMAGES), wanted, rtol=1e-5, atol=1e-5
    )  # float32


def test_backward_hooks_that_would_be_lost_are_refused():
    model = Small()
    model.register_full_backward_hook(lambda *_: None)
    with pytest.raises(CaptureError, match="module `Small` has a backward hook"):
        fxprune.couple(model, IMAGES)


def contractions(network, dtype):
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype), observation.Watch({}) as watch:
        out = network(IMAGES)
    return watch.precisions(), out


def test_an_island_stays_in_full_precision_under_the_callers_autocast():
    model = Small(island).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)
    assert "with torch.autocast(" in narrow.code
    assert contractions(narrow, torch.bfloat16)[0] == {torch.bfloat16, torch.float32}
    assert contractions(narrow, torch.float16)[1].isfinite().all()
    with pytest.raises(RuntimeError):
        narrow(torch.zeros(2, 4, 8, 8))
    assert torch.is_autocast_enabled("cpu") is False


def test_an_error_inside_a_block_leaves_the_mode():
    model = Small(lambda s, y: gradients_set(s, y[:, :, :8])).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)

    def fail(*_):
        assert not torch.is_grad_enabled()
        raise ValueError("inside")

    narrow.b.register_forward_hook(fail)
    with pytest.raises(ValueError, match="inside"):
        narrow(IMAGES)
    assert torch.is_grad_enabled()


def test_gradients_stop_where_they_stop_in_the_model():
    model = Small(lambda s, y: y.mean() + without_gradients(s, y)).eval()
    captured = capture(model, (IMAGES,))
    for network in (model, captured):
        network.zero_grad()
        network(IMAGES).sum().backward()
    assert captured.a.weight.grad is not None
    # float32, the same operations.
    torch.testing.assert_close(captured.a.weight.grad, model.a.weight.grad, rtol=1e-6, atol=1e-6)


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


def test_weights_of_zero_hide_nothing():
    model = Small(lambda s, y: y * 2 if type(y) is torch.Tensor else y).eval()
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
    coupling = fxprune.couple(Small(counted).eval(), IMAGES, check=False)
    assert coupling.graph_module.meta[WAY] == "plain"
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
    other = share_copy(captured)
    other.fc.bias = nn.Parameter(other.fc.bias.clone())
    BROKEN[name](other)
    assert difference(model, other, (IMAGES,)).always
