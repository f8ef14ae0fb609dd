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


@pytest.mark.parametrize("way", ["symbolic", "concrete", "export"])
def test_a_gradient_of_its_own_is_not_lost_in_silence(way):
    net = StraightThrough()
    plan = fxprune.plan(fxprune.couple(net, X, ways=(way,)), keep=0.5)
    with pytest.warns(fxprune.CustomGradientWarning, match="`Rounded`: .* trains with PyTorch's own gradient"):
        narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
    narrow(X).sum().backward()  # the gradient is another one, as the warning says: that is no reason to refuse any
    assert narrow.b.weight.grad is not None


rounded = Rounded.apply


class KeptApply(OwnGradients):
    def forward(self, x):
        return self.b(rounded(self.a(x) * 4))


@pytest.mark.parametrize("way", ["symbolic", "concrete", "export"])
def test_a_kept_apply_is_warned_of(way):
    net = KeptApply()
    plan = fxprune.plan(fxprune.couple(net, X, ways=(way,)), keep=0.5)
    with pytest.warns(fxprune.CustomGradientWarning, match="`Rounded`"):
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


@pytest.mark.parametrize("function", [ByNeed, ByNeedInSetup])
@pytest.mark.filterwarnings("ignore::fxprune.CustomGradientWarning")  # by intent: no test of training
def test_what_a_custom_function_asks_of_gradients_is_guarded(function):
    net = InNoGrad(function).eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    with torch.no_grad():
        assert torch.allclose(narrow(X), snapped(X), atol=1e-5)  # float32
    with pytest.raises(RuntimeError, match="requires_grad"):
        narrow(X)
    with pytest.raises(fxprune.errors.CaptureError, match="asks which of its inputs need gradients"):
        fxprune.couple(net, X, ways=("export",))
