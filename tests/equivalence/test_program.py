"""Equal programs need no numbers; what a program does not show leaves the decision to numbers."""

import copy
import functools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxprune.capture import capture
from fxprune.equivalence.comparison import difference
from fxprune.equivalence.observation import observe
from fxprune.equivalence.programs.program import Programs
from fxprune.pytorch.torch_private import TorchDispatchMode

X, LOOSE, NUMBER, OTHER_NUMBER = (torch.randn(2, 4),), torch.ones(4), torch.tensor(0.0), torch.tensor(-0.0)


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.run, self.kept = nn.Linear(4, 4), nn.Linear(4, 4), forward, []
        self.register_buffer("count", torch.zeros(4))
        self.rnn = nn.LSTM(4, 4)  # another operator on meta
        self.norm = nn.BatchNorm1d(4)  # returns statistics that nobody reads, with other sizes on meta

    def forward(self, x):
        return self.run(self, x)


def keeps(s, x):
    s.kept.append(s.a(x))
    return s.kept[0]


def attends(s, x):
    heads = s.a(x).view(1, 2, 2, 2)
    return F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 4)


def caches(s, x):
    if not s.kept:
        s.kept.append(s.b.bias.exp())
    return s.a(x) + s.kept[0]


def turns(s, x):
    if s.kept:
        return s.b(x)
    s.kept.append(0)
    return s.a(x)


def sets(s, x):
    s.last = s.a(x)
    return s.last


SAME = {
    "layers": lambda s, x: s.b(F.relu(s.a(x))),
    "a recurrent layer": lambda s, x: s.rnn(x)[0],
    "a norm": lambda s, x: s.norm(s.a(x)),
    "in place": lambda s, x: s.a(x).relu_().add_(1),
    "written buffer": lambda s, x: s.a(x) + s.count.add_(1),
    "dropout": lambda s, x: F.dropout(s.a(x), 0.5, s.training),
    "its own device": lambda s, x: s.a(x) + torch.ones(4, device=x.device),
    "a number of no module": lambda s, x: s.a(x) / NUMBER,
    "attention, with other strides on meta": attends,
}
OPEN = {
    "asks for a number": lambda s, x: s.a(x) if x.sum() > 0 else s.b(x),
    "sets an attribute": sets,
    "writes to a parameter": lambda s, x: s.a(x) + s.b.weight.data.add_(1).sum(),
    "draws from Python": lambda s, x: s.a(x) * random.random(),
    "a tensor of no module": lambda s, x: s.a(x) + LOOSE,
    "autocast": lambda s, x: s.a(x) if torch.is_autocast_enabled("cpu") else s.b(x),
}


@pytest.mark.parametrize("forward", SAME.values(), ids=SAME)
@pytest.mark.parametrize("training", [False, True])
def test_a_graph_runs_the_program_of_its_model(forward, training):
    net = Net(forward).eval()
    programs = Programs(net, capture(net, X, check=False))
    assert programs.are_equal([X], training=False)
    assert programs.are_equal([X], training=training)


@pytest.mark.parametrize("forward", OPEN.values(), ids=OPEN)
def test_an_open_program_proves_nothing(forward):
    net = Net(forward).eval()
    twin = Net(forward).eval()
    twin.load_state_dict(net.state_dict())
    twin.a, twin.b, twin.count = net.a, net.b, net.count
    assert not Programs(net, twin).are_equal([X], training=False)


@pytest.mark.parametrize("forward", SAME.values(), ids=SAME)
def test_a_call_with_numbers_shows_the_program(forward):
    net = Net(forward).eval()
    programs = Programs(net, capture(net, X, check=False))
    run = programs.record(copied := copy.deepcopy(net))
    with torch.no_grad():
        observe(copied, X, run.recording)
    assert programs.are_equal([X], training=False, after=copied) and programs.is_of_graph(run)


def test_a_first_call_shows_the_program_though_it_keeps_a_table():
    net = Net(caches).eval()
    programs = Programs(net, capture(net, X, check=False))
    run = programs.record(copied := copy.deepcopy(net))
    with torch.no_grad():
        observe(copied, X, run.recording)
    assert not programs.are_equal([X], training=False, after=copied)
    assert programs.is_of_graph(run) and run.keeps


def in_double(s, x):
    torch.set_default_dtype(torch.float64)
    try:
        return torch.ones(x.shape)
    finally:
        torch.set_default_dtype(torch.float32)


OTHER = {
    "another layer": (lambda s, x: s.a(x), lambda s, x: s.b(x)),
    "another order": (lambda s, x: s.a(s.b(x)), lambda s, x: s.b(s.a(x))),
    "another constant": (lambda s, x: s.a(x) * 2, lambda s, x: s.a(x) * 3),
    "another type of constant": (lambda s, x: s.a(x) * 1, lambda s, x: s.a(x) * True),
    "another number of no module": (lambda s, x: s.a(x) / NUMBER, lambda s, x: s.a(x) / OTHER_NUMBER),
    "another operand": (lambda s, x: s.a(x) - s.b(x), lambda s, x: s.b(x) - s.a(x)),
    "another result": (lambda s, x: (s.a(x), s.b(x))[0], lambda s, x: (s.a(x), s.b(x))[1]),
    "a result of the call before": (lambda s, x: s.a(x), keeps),
    "a write more": (lambda s, x: s.a(x), lambda s, x: (s.a(x), s.count.add_(1))[0]),
    "a draw more": (lambda s, x: s.a(x), lambda s, x: (s.a(x), torch.rand(1))[0]),
    "another type by default": (lambda s, x: torch.ones(x.shape), in_double),
    "attention by hand": (
        lambda s, x: F.scaled_dot_product_attention(x, x, x),
        lambda s, x: (x @ x.mT / 2).softmax(-1) @ x,
    ),
}


@pytest.mark.parametrize(("forward", "other"), OTHER.values(), ids=OTHER)
def test_other_programs_differ(forward, other):
    net, twin = Net(forward).eval(), Net(other).eval()
    twin.a, twin.b, twin.count = net.a, net.b, net.count
    assert Programs(net, net).are_equal([X], training=False)
    assert not Programs(net, twin).are_equal([X], training=False)


def noise(x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        return torch.randn_like(x)


@functools.lru_cache(None)
def table(n, device):
    return torch.arange(n, device=device).float() / n


def in_bfloat16(s, x):
    torch.set_autocast_enabled("cpu", True)
    try:
        return s.a(x).float()
    finally:
        torch.set_autocast_enabled("cpu", False)


def gives_data(s, x):
    y = s.a(x)
    s.a._parameters["bias"].data = y.mean(0)
    return y


def reads_a_weight(s, x):
    try:
        is_other = not hasattr(x, "node") and s.b.weight.tolist() != s.first
    except Exception:
        is_other = False
    return s.a(x) * (2 if is_other else 1)


class Doubles(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.ops.aten.bmm.default else out


def attends_in_a_mode(s, x):
    q = s.a(x)[None, None]
    with Doubles(), sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, q, q)[0, 0]


ASKED = {"autocast": torch.is_autocast_enabled}


def asks_out_of_a_table(s, x):
    if not s.kept:
        s.kept.append(s.b.bias.exp())
    y = s.a(x + s.kept[0])
    return y.float() if ASKED["autocast"]("cpu") else y


# What no program shows, since it acts on the meta device as in a trace.
HIDDEN = {
    "seeded": lambda s, x: s.a(x) + noise(x),
    "seeded in training": lambda s, x: s.a(x) + (noise(x) if s.training else 0),
    "asks what a proxy is": lambda s, x: s.b(s.a(x)) * (2 if torch.overrides.has_torch_function((x,)) else 1),
    "autocast by a function": in_bfloat16,
    "gives a parameter other data": gives_data,
    "turns elsewhere at a second call": turns,
    "reads a weight by no operator": reads_a_weight,
    "attention in a mode of its own": attends_in_a_mode,
    "autocast by no name, and a table": asks_out_of_a_table,
}


@pytest.mark.parametrize("forward", HIDDEN.values(), ids=HIDDEN)
def test_what_no_program_shows_is_found(forward):
    net = Net(forward).eval()
    net.first = net.b.weight.tolist()
    graph = capture(net, X, check=False)
    found = difference(net, graph, X)
    assert found.always or found.in_training


def test_tables_of_the_model_stay_real():
    """A table that the model makes once, at sizes of the example, must not be one without numbers."""
    table.cache_clear()
    net = Net(lambda s, x: s.a(x * 1 if x.shape[-1] > 2 else x) + table(x.shape[-1], x.device)).eval()
    assert not difference(net, capture(net, X, check=False), X).always
    for training in (False, True):
        assert net.train(training)(*X).isfinite().all()
    table.cache_clear()
    net = Net(lambda s, x: s.a(x) + (table(len(x), x.device).sum() if s.training else 0)).eval()
    difference(net, capture(net, X, check=False), X)
    assert net.train()(torch.cat([*X, *X])).isfinite().all()
