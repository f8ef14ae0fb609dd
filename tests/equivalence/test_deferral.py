"""Numbers that nobody reads need not be computed; all others are what they would be anyway."""

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxprune.capture import capture
from fxprune.equivalence.comparison import difference
from fxprune.equivalence.programs.deferral import Deferred
from fxprune.pytorch.torch_private import TorchDispatchMode

X = torch.rand(2, 4, 6, 6)


class Net(nn.Module):
    kept: ClassVar = {}

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.run = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), forward
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x):
        return self.run(self, x)


def writes_where_others_read(s, x):
    table = torch.zeros(4, 1, 1)
    y = s.a(x) + table
    table.add_(1)
    return y + table


def is_narrowed_in_place(s, x):
    y = s.a(x).mean((2, 3), keepdim=True)
    return y.exp(), y.squeeze_().squeeze_(-1) + 1


def fills_a_view(s, x):
    y = s.a(x)
    y[:, 1:3].mul_(2)
    y[:, 0] = y[:, 3].exp()
    return y


def takes_statistics(s, x):
    F.batch_norm(s.a(x), s.b.running_mean, s.b.running_var, training=True)
    return s.b(s.a(x)), s.b.running_mean.argsort()


def reads(how):
    def forward(s, x):
        y = s.a(x)
        return y * how(y.mean()) + y.relu_()

    return forward


RUNS = {
    "layers": lambda s, x: F.max_pool2d(s.b(s.a(x)).relu_(), 2).flatten(1),
    "attention": lambda s, x: F.scaled_dot_product_attention(s.a(x), s.a(x), s.a(x)),
    "channels last": lambda s, x: F.adaptive_avg_pool2d(s.a(x.to(memory_format=torch.channels_last)), 1),
    "a written buffer": lambda s, x: s.a(x) + s.count.add_(s.a(x).mean()).view(4, 1, 1) + s.count.add_(1)[0],
    "a table that is written": writes_where_others_read,
    "a view that is written": fills_a_view,
    "sizes that change in place": is_narrowed_in_place,
    "statistics": takes_statistics,
    "a mask": lambda s, x: s.a(x)[s.a(x) > 0],
    "places": lambda s, x: s.a(x).flatten(1)[:, s.a(x).flatten(1).argmax(1)],
    "integers": lambda s, x: s.a(x).flatten(1).tensor_split(torch.tensor([1, 3]) + s.a(x).mean().abs().long(), 1)[1],
    "item": reads(lambda y: y.item()),
    "float": reads(float),
    "tolist": reads(lambda y: y.tolist()),
    "numpy": reads(lambda y: float(y.numpy())),
    "torch.tensor": reads(lambda y: torch.tensor([y, 1.0])[0]),
    "a copy": reads(copy.deepcopy),
    "autocast": reads(lambda y: torch.autocast("cpu", torch.bfloat16)(torch.mm)(y.view(1, 1), y.view(1, 1)).item()),
    "data": reads(lambda y: setattr(y, "data", y * 2) or y),
    "layout": reads(lambda y: y.item() if y.is_contiguous() else 0),
}


def run(net):
    """Return outputs and buffers of a call."""
    with torch.no_grad():
        out = net(X.clone())
        return [*(out if isinstance(out, tuple) else (out,)), *net.buffers()]


@pytest.mark.parametrize("forward", RUNS.values(), ids=RUNS)
def test_all_numbers_are_those_of_a_usual_call(forward):
    net = Net(forward).eval()
    usual, deferred = run(copy.deepcopy(net)), Deferred()
    with deferred, deferred.watching():
        found = run(net)
    deferred.compute()
    other_order = forward is RUNS["channels last"]  # in which the usual call adds
    for a, b in zip(usual, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 * other_order, atol=1e-7 * other_order)


class Counted(TorchDispatchMode):
    """Counts the convolutions that get numbers."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default and not args[0].is_meta
        return func(*args, **(kwargs or {}))


def convolutions(net):
    """Count the convolutions with numbers of a comparison that finds no difference."""
    graph = capture(net, (X,), check=False)
    with Counted() as counted:
        assert not difference(net, graph, (X,)).always
    return counted.count


def test_a_comparison_computes_nothing_where_no_number_is_read():
    assert convolutions(Net(RUNS["layers"]).eval()) == 0
    assert convolutions(Net(lambda s, x: s.a(x) * s.count.sum().item()).eval()) > 0


def test_what_a_class_keeps_is_as_before():
    def keeps(s, x):
        return s.a(x) + Net.kept.setdefault("first", s.a(x).exp())

    net, plain = Net(keeps).eval(), Net(lambda s, x: s.a(x)).eval()
    plain.a = net.a
    assert difference(net, capture(plain, (X,)), (X,)).always
    assert not Net.kept


@pytest.mark.parametrize("changed", [lambda y: y, lambda y: y[1:], lambda y: [y], lambda y: y.view(-1)])
def test_what_a_hook_keeps_has_its_numbers(changed):
    kept = []

    def hook(module, inputs, output):
        if not kept:
            kept.append(changed(output.exp()))
        return output + 0 * output.mean()

    net = Net(lambda s, x: s.a(x).relu()).eval()
    net.a.register_forward_hook(hook)
    difference(net, capture(net, (X,), check=False), (X,))
    with torch.no_grad():
        found, wanted = kept[0], changed(nn.functional.conv2d(X, net.a.weight, net.a.bias).exp())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_lies_in_another_order_waits_for_nothing():
    net = Net(RUNS["layers"]).eval().to(memory_format=torch.channels_last)
    with torch.no_grad(), Deferred() as deferred:
        x = X.to(memory_format=torch.channels_last)
        strides = net.a(x).stride()
        assert not deferred.is_held()
    assert strides == net.a(x).stride()


def test_a_parameter_that_gets_other_memory_has_its_numbers_afterwards():
    def replaces(s, x):
        s.a.bias.data.set_(torch.zeros(4))
        return s.a(x)

    net = Net(replaces).eval()
    before = net.a.bias.detach().clone()
    difference(net, capture(net, (X,), check=False), (X,))
    assert torch.equal(net.a.bias, before)
