"""Decisions and hooks of a model are those of its narrow network, which stops where another one would be taken."""

from __future__ import annotations

import math
import operator
import sys

import numpy as np
import pytest
import torch
from helpers.networks.middle import IMAGES, Small, drawn
from torch import cond, is_autocast_enabled, nn
from torch import is_grad_enabled as records
from torch._higher_order_ops.map import map as mapped
from torch._higher_order_ops.scan import scan

import fxprune
from fxprune.arguments.guards import SpecialisedError, guard_equal
from fxprune.capture.trace import WAYS, capture
from fxprune.errors import CaptureError

ASK = {"autocast": is_autocast_enabled, "gradients": records, "type": torch.get_autocast_dtype}
KEY = torch._C.DispatchKey.AutocastCPU


def asks_later(s, y):
    """Ask from the second call on."""
    asked, s.last_asked = getattr(s, "last_asked", False), True
    return y * 2 if asked and ASK["autocast"]("cpu") else y


def keeps_answer(s, y):
    """Keep the answer of the first call."""
    return y * 2 if vars(s).setdefault("answers", {}).setdefault("autocast", ASK["autocast"]("cpu")) else y


STOPS = {
    "dtype ==": (lambda s, y: y * 2 if y.dtype == torch.float32 else y, lambda net: net.double()(IMAGES.double())),
    "dtype is": (lambda s, y: y * 2 if y.dtype is torch.float32 else y, lambda net: net.double()(IMAGES.double())),
    "dtype in a table": (lambda s, y: y * {torch.float32: 2, torch.float64: 3}[y.dtype],
                         lambda net: net.double()(IMAGES.double())),
    "is_grad_enabled": (lambda s, y: y * 2 if torch.is_grad_enabled() else y, lambda net: net(IMAGES)),
    "autocast": (lambda s, y: y * 2 if torch.is_autocast_enabled("cpu") else y,
                 lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, by an own name": (lambda s, y: y * 2 if is_autocast_enabled("cpu") else y,
                                 lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, by a private name": (lambda s, y: y * 2 if torch._C.is_autocast_enabled("cpu") else y,
                                    lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, in a table": (lambda s, y: y * 2 if ASK["autocast"]("cpu") else y,
                             lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, by its key": (
        lambda s, y: y if torch._C._dispatch_tls_is_dispatch_key_excluded(KEY) else y * 2,
        lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, later": (asks_later, lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, kept": (keeps_answer, lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, only with gradients": (
        lambda s, y: y * 2 if ASK["autocast"]("cpu") and ASK["gradients"]() else y,
        lambda net: torch.autocast("cpu")(net)(IMAGES)),
    "autocast, only in bfloat16": (
        lambda s, y: y * 2 if torch.get_autocast_dtype("cpu") == torch.bfloat16 and ASK["autocast"]("cpu") else y,
        lambda net: torch.autocast("cpu", torch.bfloat16)(net)(IMAGES)),
    "autocast, only in bfloat16 and in eval mode": (
        lambda s, y: y * 2 if ASK["autocast"]("cpu") and ASK["type"]("cpu") == torch.bfloat16 and not s.training else y,
        lambda net: torch.autocast("cpu", torch.bfloat16)(net)(IMAGES)),
    "autocast, only in float16 and in training": (
        lambda s, y: y * 2 if ASK["autocast"]("cpu") and ASK["type"]("cpu") == torch.float16 and s.training else y,
        lambda net: torch.autocast("cpu", torch.float16)(net.train())(IMAGES)),
    "the operator that a tensor comes from": (
        lambda s, y: y * 2 if type(y.grad_fn).__name__ == "ReluBackward0" else y, lambda net: net(IMAGES)),
    "frozen weights": (
        lambda s, y: y * 2 if s.a.weight.requires_grad else y, lambda net: net.requires_grad_(False)(IMAGES)),
    "whether an operator is known": (lambda s, y: y * 2 if y.grad_fn else y, lambda net: net(IMAGES)),
    "gradients, in a table": (lambda s, y: y * 2 if ASK["gradients"]() else y, lambda net: net(IMAGES)),
    "dtype behind a type": (
        lambda s, y: y * 2 if isinstance(y, torch.Tensor) and y.dtype == torch.bfloat16 else y,
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


BEHIND_A_TYPE = {
    "dtype": lambda s, y: y * 2 if type(y) is torch.Tensor and y.dtype == torch.bfloat16 else y,
    "size": lambda s, y: y * 2 if type(y) is torch.Tensor and y.shape[0] > 3 else y,
    "requires_grad": lambda s, y: y * 2 if type(y) is torch.Tensor and y.requires_grad else y,
}


@pytest.mark.parametrize("what", BEHIND_A_TYPE)
def test_what_no_graph_asks_refuses_the_model(what):
    with pytest.raises(CaptureError, match=f"only the model asks for `{what}` at capture/test_capture_guards"):
        capture(Small(BEHIND_A_TYPE[what]).eval(), (IMAGES,))


def tried(change):
    """Take the tensor as it is where PyTorch gives an error, as it does in a trace alone."""

    def middle(s, y):
        try:
            return change(y)
        except Exception:
            return y

    return middle


def doubled(y):
    return y * 2


UNKNOWN = {  # what no traced value tells -> the ways of capture, a part of the error
    "references": (lambda s, y: y * sys.getrefcount(y), WAYS, "module `Small` at .*`getrefcount` of a tensor"),
    "branches tried": (
        tried(lambda y: torch.cond(y.sum() > 0, doubled, torch.relu, (y,))), WAYS, "gives a function to PyTorch at "),
    "branches by another name tried": (
        tried(lambda y: cond(y.sum() > -1e9, doubled, torch.relu, (y,))), WAYS, "computes something else: output 0"),
    "samples one by one tried": (tried(lambda y: mapped(doubled, y)), WAYS, "computes something else: output 0"),
    "a loop tried": (
        tried(lambda y: scan(lambda c, z: (c + z, c * 2 + z), y[0] * 0, y)[1]), WAYS, "computes something else: "),
    "a trace tried": (tried(lambda y: torch.jit.trace(doubled, y)(y)), WAYS, "`trace` of a tensor"),
    "history of an export": (
        lambda s, y: y * 2 if torch.result_type(y, 1.0) is torch.float32 and s.a.weight.grad is None else y, ["export"],
        "only the model asks for `grad` at capture/test_capture_guards"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_no_traced_value_tells_refuses_the_model(name):
    middle, ways, why = UNKNOWN[name]
    with pytest.raises(CaptureError, match=why):
        capture(Small(middle).eval(), (IMAGES,), ways=ways)


def test_a_model_that_asks_nothing_has_no_guard():
    graph = capture(Small().eval(), (IMAGES,))
    assert not graph.graph.find_nodes(op="call_function", target=guard_equal)


class Asking(Small):
    """Asks by a name that its module gave to the question."""

    def forward(self, x):
        return super().forward(x) * (2 if records() else 1)


def test_a_question_by_another_name_in_the_module_of_the_model_is_guarded():
    graph = capture(Asking().eval(), (IMAGES,))
    with pytest.raises(SpecialisedError, match="captured "):
        graph(IMAGES)


IDLE = {
    "no checkpoints": lambda s, y: y * 2 if torch.is_grad_enabled() and s.checkpoints else y,
    "none in training": lambda s, y: y * 2 if s.training and torch.is_grad_enabled() and s.checkpoints else y,
}


@pytest.mark.parametrize("name", IDLE)
def test_whether_gradients_are_recorded_is_no_matter_where_both_answers_give_one_graph(name):
    model = Small(IDLE[name]).eval()
    model.checkpoints = False
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)
    with torch.no_grad():
        wanted = narrow(IMAGES)
    assert torch.equal(narrow(IMAGES), wanted)
    narrow.train()(IMAGES).sum().backward()


def keeps(s, y):
    s.bn.momentum = 0.5 if torch.is_grad_enabled() else 0.1
    return y


MINDED = {  # what is asked for -> whether training mode minds alone
    "in training": (lambda s, y: y * 2 if torch.is_grad_enabled() and s.training else y, True),
    "a number as a tensor": (lambda s, y: y * torch.tensor(2.0 if torch.is_grad_enabled() else 3.0), False),
    "a setting of a layer": (keeps, False),
}


@pytest.mark.parametrize("name", MINDED)
def test_a_question_about_gradients_whose_answer_matters_stays(name):
    middle, training = MINDED[name]
    graph = capture(Small(middle).eval(), (IMAGES,))
    with pytest.raises(SpecialisedError, match="captured "):
        graph.train(training)(IMAGES)


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_network_stops_as_well(whole):
    model = Small(lambda s, y: y * 2 if y.shape[2] == 8 and y.shape[0] != 4 else y).eval()
    compiled = torch.compile(capture(model, (IMAGES,)), backend="eager", fullgraph=whole)
    with torch.no_grad():
        for images in (IMAGES, torch.randn(3, 3, 8, 8), torch.randn(5, 3, 8, 8)):
            assert torch.allclose(compiled(images), model(images), atol=1e-6)  # float32
        for size in ((2, 3, 12, 12), (4, 3, 8, 8)):
            with pytest.raises(Exception, match=r"captured where|Observed exception"):
                compiled(torch.randn(size))
    torch.compiler.reset()


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


def test_numpy_may_hold_sizes():
    coupling = fxprune.couple(Small(lambda s, y: y if (np.array(y.shape[2:]) % 2).any() else y * 2).eval(), IMAGES)
    assert coupling.graph_module.meta["fxprune_capture"] == "concrete"


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


JOINED = {
    "a number": lambda x, y: operator.add((x.shape[0],), x.shape[1:-1]),
    "two sizes": lambda x, y: x.shape[:-1] + y.shape[1:],
    "a part of them": lambda x, y: (x.shape + y.shape)[1:],
}


@pytest.mark.parametrize("name", JOINED)
def test_the_length_of_joined_sizes_is_guarded(name):
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 8)

        def forward(self, x, y):
            return self.a(x) * math.prod([*JOINED[name](x, y)])

    x, y = torch.rand(2, 5, 2), torch.rand(2, 8)
    model = Spread().eval()
    graph = capture(model, (x, y), ways=["concrete"])
    torch.testing.assert_close(graph(x[:1], y[:1]), model(x[:1], y[:1]))
    if name != "a number":
        with pytest.raises(SpecialisedError):
            graph(x, y[:, None])
