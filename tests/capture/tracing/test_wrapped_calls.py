"""What decorators and checks of libraries do around a call: arguments by name, conditions, activations of a table."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from helpers.checks import finite
from samples import Net
from torch import nn

import fxprune
from fxprune.capture.trace import capture
from fxprune.errors import CaptureError

X = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


class Asking(nn.Module):
    """Checks as those of transformers: may the condition be called, does it hold; an activation made by the call."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        y = self.a(x)
        right = y.shape[1] * y.shape[3] == 8 * (x.shape[3] - 2)
        torch._check_with(ValueError, right() if callable(right) else right, lambda: "not this width")
        activation = Swish() if y.shape[2] > 2 and not callable(y) else nn.ReLU()
        return self.b(activation(y)).mean((2, 3))


class Swish(nn.Module):
    def forward(self, x):
        return x * nn.Sigmoid()(x)


def test_checks_and_activations_of_a_call_are_traced():
    net = Asking().eval()
    capture(net, (X,), ways=("concrete",))
    proof = fxprune.prove(net, X)
    assert proof.passed and proof.plan.widths == {"a.weight": (8, 4)}, proof
    assert callable(net) and not callable(X) and "<locals>" not in repr(callable)


class Values(Asking):
    """Checks of tensors, one of them of sizes that a table holds, as in RT-DETR v2."""

    def forward(self, x):
        y = self.a(x).relu()
        sizes = torch.empty((1, 2), dtype=torch.long, device=x.device)
        sizes[0, 0], sizes[0, 1] = y.shape[2], y.shape[3]
        tokens = y.flatten(2).shape[2]
        torch._check_tensor_all_with(ValueError, sizes[:, 0] * sizes[:, 1] == tokens, lambda: "other sizes")
        torch._check_tensor_all(y >= 0, lambda: f"numbers below 0 among {x.shape[0] * x.shape[3]}")
        return self.b(y).mean((2, 3))


def test_checks_of_values_stay_in_the_graph(tmp_path):
    net = Values().eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    assert plan.widths == {"a.weight": (8, 4)} and str(plan.coupling.batch) == "any"
    snapped = fxprune.snap(net, plan)
    narrow, larger = fxprune.narrow(snapped, plan), torch.rand(3, 3, 9, 20)
    assert torch.allclose(narrow(larger), snapped(larger), atol=1e-6)
    where = r"the check at tracing/test_wrapped_calls.py:\d+ fails"
    for network, said in ((net, "numbers below 0 among"), (narrow, where)):
        with pytest.raises(RuntimeError, match=said):
            network(X * torch.nan)
    fxprune.export_onnx(narrow, X, tmp_path / "narrow.onnx")
    fxprune.export_python(narrow, X, tmp_path / "narrow.py")


@pytest.mark.parametrize("given", ["numbers below 0", ValueError("numbers below 0")])
def test_a_network_that_refuses_other_values_gets_those_of_the_example(given):
    """Also where the snapped network is analysed again."""

    def forward(s, x):
        torch._assert((x >= 0).all(), message=given)
        return s.b(s.a(x).relu()).mean((2, 3))

    net = Net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 4, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, X.abs()), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert torch.allclose(narrow(X.abs()), snapped(X.abs()), atol=1e-6)
    with pytest.raises(RuntimeError, match="numbers below 0"):
        narrow(-X.abs())


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def run(self, x, scale=None, deep=None):
        return self.b(self.a(x) * scale).mean((2, 3)) if deep else self.a(x)

    def forward(self, *args, **kwargs):
        kwargs.setdefault("deep", True)  # as decorators of transformers
        return self.run(*args, **kwargs)

    forward.__signature__ = inspect.signature(run)


def test_arguments_given_by_name_are_passed_by_name():
    net, inputs = ByName().eval(), {"x": X, "scale": torch.rand(()), "deep": True}
    plan = fxprune.plan(fxprune.couple(net, inputs), keep=0.5)
    snapped = fxprune.snap(net, plan)
    assert torch.allclose(fxprune.narrow(snapped, plan)(**inputs), snapped(**inputs), atol=1e-6)


def _raised(y):
    if (y > 9).any():
        raise ValueError(f"{y.shape}")
    return y


def _otherwise(y):
    if not torch.isnan(y).any():
        y = y * 2
    else:
        raise ValueError
    return y


CHECKS = {
    "assert": finite,
    "raise": _raised,
    "raise otherwise": _otherwise,
    "distribution": lambda y: torch.distributions.Normal(y, y.exp(), validate_args=True).mean,
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_branch_that_only_raises_is_a_check_in_the_graph(name):
    class Checks(Asking):
        def forward(self, x):
            return self.b(CHECKS[name](self.a(x))).mean((2, 3))

    net = Checks().eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    assert plan.widths == {"a.weight": (8, 4)} and str(plan.coupling.batch) == "any"
    snapped = fxprune.snap(net, plan)
    narrow, larger = fxprune.narrow(snapped, plan), torch.rand(3, 3, 9, 20)
    assert torch.allclose(narrow(larger), snapped(larger), atol=1e-6)  # sums in float32
    wrong = X * 1e6 if name == "raise" else torch.full_like(X, torch.inf)
    with pytest.raises((ValueError, AssertionError)):
        snapped(wrong)
    with pytest.raises(RuntimeError, match=r"the check at \S+:\d+ fails"):
        narrow(wrong)


def _tried(y):
    try:
        return _raised(y)
    except ValueError:
        return -y


def _suppressed(y):
    with contextlib.suppress(ValueError):
        y = _raised(y) * 2
    return y


def _tried_inside(y):
    if (y > 9).any():
        try:
            raise ValueError
        except ValueError:
            y = -y
    return y


def _asked(y):
    class Held:
        @property
        def known(self):
            if (y > 9).any():
                raise AttributeError

    return y * 2 if hasattr(Held(), "known") else y


def _looped(y):
    def halves(given):
        while True:
            given = given / 2
            if (given < 9).all():
                raise Small
            yield given

    with contextlib.suppress(Small):
        for _ in halves(y):
            y = y / 2
    return y


class Small(Exception):
    """It ends a loop."""


GOES_ON = {
    "branch": lambda y: y * 2 if (y > 0).all() else y,
    "call": lambda y: y if all([(y > 0).all()]) else y * 2,
    "except": _tried,
    "suppress": _suppressed,
    "except inside": _tried_inside,
    "hasattr": _asked,
    "loop": _looped,
}


@pytest.mark.parametrize("branch", GOES_ON.values(), ids=GOES_ON)
def test_a_branch_that_goes_on_is_no_check(branch):
    class Branches(Asking):
        def forward(self, x):
            return self.b(branch(self.a(x))).mean((2, 3))

    with pytest.raises(CaptureError, match="control flow depends on the values of a tensor"):
        fxprune.couple(Branches().eval(), X)
