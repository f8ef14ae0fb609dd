"""Custom functions with a gradient of their own are traced by their forward, and warned of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune

X = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(context, grad):
        return grad * 2


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * 3

    @staticmethod
    def setup_context(context, inputs, output):
        context.mark_non_differentiable(output)


class OwnGradients(nn.Module):
    """Functions with a backward of their own, in a network that decides something by its sizes (as OmniSR)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.a(x)
        return self.b(Tripled.apply(Doubled.apply(y) if y.shape[2] > 4 else y))


def test_a_custom_function_is_traced_and_ends_no_process():
    before = vars(torch.autograd.Function)["apply"]
    proof = fxprune.prove(OwnGradients(), X)
    assert proof.passed, proof
    assert proof.plan.coupling.graph_module.meta["fxprune_capture"] == "concrete"
    assert vars(torch.autograd.Function)["apply"] is before


class Rounded(torch.autograd.Function):
    """A straight-through estimator: its gradient is that of the identity."""

    @staticmethod
    def forward(context, x):
        return x.round()

    @staticmethod
    def backward(context, grad):
        return grad


class StraightThrough(OwnGradients):
    def forward(self, x):
        return self.b(Rounded.apply(self.a(x) * 4))


rounded = Rounded.apply


class KeptApply(OwnGradients):
    def forward(self, x):
        return self.b(rounded(self.a(x) * 4))


@pytest.mark.parametrize("way", ["symbolic", "concrete", "export"])
@pytest.mark.parametrize("kind", [StraightThrough, KeptApply])
def test_a_gradient_of_its_own_is_not_lost_in_silence(kind, way):
    net = kind()
    plan = fxprune.plan(fxprune.couple(net, X, ways=(way,)), keep=0.5)
    with pytest.warns(fxprune.CustomGradientWarning, match="`Rounded`: .* only where no gradients are recorded"):
        fxprune.narrow(fxprune.snap(net, plan), plan)


class ByNeed(torch.autograd.Function):
    """Computes something else for an input that needs a gradient."""

    @staticmethod
    def forward(context, x, weight):
        return x * weight * (3 if context.needs_input_grad[0] else 2) * (5 if context.needs_input_grad[1] else 7)

    @staticmethod
    def backward(context, grad):
        return grad, None


class ByNeedInSetup(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x * weight

    @staticmethod
    def setup_context(context, inputs, output):
        if context.needs_input_grad[0]:
            output.mul_(2)


class InNoGrad(OwnGradients):
    """The forward of a custom function tells what needs a gradient, also where none is recorded."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        y = self.a(x)
        with torch.no_grad():
            return self.b(self.function.apply(y, self.weight))


class Sign(torch.autograd.Function):
    """A straight-through estimator whose operators, unlike itself, end the gradient."""

    @staticmethod
    def forward(context, x):
        return (x > 0).float()

    @staticmethod
    def backward(context, grad):
        return grad


class BySign(InNoGrad):
    def forward(self, x):
        return self.b(self.function.apply(Sign.apply(self.a(x)), self.weight))


class AskingSign(OwnGradients):
    def forward(self, x):
        y = Sign.apply(self.a(x))
        return self.b(y * 3 if y.requires_grad else y)


class CatchingSign(OwnGradients):
    def forward(self, x):
        y = Sign.apply(self.a(x))
        try:
            y.requires_grad_(False)
        except RuntimeError:
            y = y * 3
        return self.b(y)


@pytest.mark.parametrize("net", [BySign(ByNeed), AskingSign(), CatchingSign()], ids=["need", "asks", "catches"])
@pytest.mark.filterwarnings("ignore::fxprune.CustomGradientWarning")  # by intent: no test of training
def test_what_follows_a_lost_gradient_is_refused_where_gradients_are_recorded(net):
    plan = fxprune.plan(fxprune.couple(net.eval(), X), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    with torch.no_grad():
        assert torch.allclose(narrow(X), snapped(X), atol=1e-5)  # float32
    with pytest.raises(RuntimeError, match="is_grad_enabled"):
        narrow(X)


class Scaled(torch.autograd.Function):
    """Hands what it was given, with defaults, to ``setup_context``."""

    @staticmethod
    def forward(x, scale=2.0):
        return x * scale

    @staticmethod
    def setup_context(context, inputs, output):
        x, context.scale = inputs
        context.save_for_backward(x)


class ByDefault(OwnGradients):
    def forward(self, x):
        return self.b(Scaled.apply(Scaled.apply(self.a(x)), scale=3.0))


def test_setup_context_gets_defaults_and_keywords():
    assert fxprune.prove(ByDefault(), X).passed
    assert fxprune.couple(ByDefault(), X).graph_module.meta["fxprune_capture"] == "symbolic"


class OfConstant(InNoGrad):
    def forward(self, x):
        return self.b(self.a(x) + self.function.apply(torch.ones(8, 1, 1), torch.ones(8, 1, 1)))


def test_a_constant_needs_no_gradient():
    meta = fxprune.couple(OfConstant(ByNeed), X).graph_module.meta
    assert meta["fxprune_capture"] == "symbolic" and not meta["fxprune_custom_gradients"]


class Caught(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        try:
            return x * (3 if context.needs_input_grad[0] else 2)
        except Exception:
            return x * 2


caught = Caught.apply


class Catching(OwnGradients):
    def forward(self, x):
        with torch.no_grad():
            return self.b(caught(self.a(x)))


def test_a_refusal_that_the_model_catches_counts():
    with pytest.raises(fxprune.errors.CaptureError, match="`Caught` asks which of its inputs need gradients"):
        fxprune.couple(Catching(), X)


@pytest.mark.parametrize("function", [ByNeed, ByNeedInSetup])
@pytest.mark.filterwarnings("ignore::fxprune.CustomGradientWarning")  # by intent: no test of training
def test_what_a_custom_function_asks_of_gradients_is_guarded(function):
    net = InNoGrad(function).eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    with torch.no_grad():
        assert torch.allclose(narrow(X), snapped(X), atol=1e-5)  # float32
    with pytest.raises(RuntimeError, match="is_grad_enabled"):
        narrow(X)
    with pytest.raises(fxprune.errors.CaptureError, match=r"asks which .* at \S+/test_custom_functions\.py:\d+"):
        fxprune.couple(net, X, ways=("export",))
