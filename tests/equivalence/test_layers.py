"""A call of PyTorch's own layer is one entry of a program, which tells all that the call depends on."""

import contextlib
import functools
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune.equivalence.programs.layers import layers_recorded
from fxprune.equivalence.programs.program import Programs
from fxprune.pytorch.meta import make_again
from fxprune.pytorch.modules import clone_sharing

X = (torch.randn(3, 4),)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.rnn, self.last = nn.BatchNorm1d(4), nn.LSTM(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.rnn(self.norm(x))[0])


def swapped(net):
    net.rnn._flat_weights[:2] = net.rnn._flat_weights[1::-1]


# Two twins with the tensors of one network, of which one differs so.
OTHER = {
    "a number": lambda net: setattr(net.norm, "eps", 0.1),
    "a flag": lambda net: setattr(net.norm, "track_running_stats", False),
    "no tensor": lambda net: setattr(net.norm, "running_mean", None),
    "tensors in another order": swapped,
    "a hook": lambda net: net.last.register_forward_hook(lambda _, __, out: out * 2),
    "a hook before": lambda net: net.last.register_forward_pre_hook(lambda _, given: (given[0] * 2,)),
    "mode": lambda net: setattr(net.norm, "train", lambda mode: net.norm),
}


class Doubled(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is F.linear else out


class DoubledOperators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.ops.aten.addmm.default else out


def patched(place, name):
    function = getattr(place, name)
    doubled = functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs) * 2)
    return lambda: mock.patch.object(place, name, doubled)


def lstm_patched():
    def doubled(*args):
        return [out * 2 for out in torch._VF.vf.lstm(*args)]

    return mock.patch.object(torch._VF, "lstm", doubled, create=True)


AROUND = {
    "a mode of functions": Doubled,
    "a mode of operators": DoubledOperators,
    "a function": patched(F, "linear"),
    "a function of torch": patched(torch, "batch_norm"),
    "a method of the class": patched(nn.Linear, "forward"),
    "a function of recurrent layers": lstm_patched,
}


class Inside(Net):
    around = None

    def forward(self, x):
        with self.around() if self.training or not self.only_training else contextlib.nullcontext():
            return super().forward(x)


@pytest.mark.parametrize("only_training", [False, True])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_layer_called_under_something_else_is_another_entry(around, only_training):
    net = Net().eval()
    other = twin_of(net)
    other.__class__, other.around, other.only_training = Inside, around, only_training
    assert Programs(twin_of(net), other).are_equal([X], training=False) == only_training
    assert not Programs(twin_of(net), other).are_equal([X], training=True)


def twin_of(net):
    return clone_sharing(net).eval()


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_a_layer_called_otherwise_is_another_entry(change):
    net = Net().eval()
    one, other = twin_of(net), twin_of(net)
    assert Programs(one, other).are_equal([X], training=False)
    change(other)
    assert not Programs(one, other).are_equal([X], training=True)


def calls_of(net, inputs):
    seen = []

    def record(layer, settings, forward, args):
        seen.append(type(layer))
        return forward(*args)

    with layers_recorded(net, record):
        net(*inputs)
    return seen


def test_layers_run_as_before_afterwards():
    net = Net().eval()
    wanted = net(*X)
    assert calls_of(net, X) == [nn.BatchNorm1d, nn.LSTM, nn.Linear]
    assert not any("forward" in vars(module) for module in net.modules())
    assert torch.equal(net(*X), wanted)


def forward_of_its_own(net):
    net.last.forward = lambda x: x


def an_unknown_setting(net):
    net.last.scale = torch.ones(1)


OPENED = {
    "draws": lambda net: setattr(net, "rnn", nn.LSTM(4, 4, 2, dropout=0.5)),
    "has a forward of its own": forward_of_its_own,
    "has a setting of an unknown kind": an_unknown_setting,
    "is of a class derived from PyTorch's": lambda net: setattr(net, "last", type("Own", (nn.Linear,), {})(4, 4)),
}


@pytest.mark.parametrize("change", OPENED.values(), ids=OPENED)
def test_what_an_entry_would_not_tell_is_recorded_by_operators(change):
    net = Net().eval()
    change(net)
    assert len(calls_of(net, X)) == 2


def test_results_are_made_again_for_equal_sizes_only():
    layer = nn.Linear(4, 6).to("meta")
    ran = []

    def call(*sizes):
        x = torch.empty(sizes, device="meta")
        return make_again((nn.Linear, (x,), [layer.weight]), lambda: ran.append(0) or layer(x)), x

    (first, _), (again, x), (other, _) = call(3, 4), call(3, 4), call(5, 4)
    assert first.shape == again.shape == (3, 6) and other.shape == (5, 6)
    assert first is not again and again.untyped_storage()._cdata != x.untyped_storage()._cdata
    assert len(ran) == 2
