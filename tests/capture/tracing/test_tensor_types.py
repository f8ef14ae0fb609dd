"""Tensors that a model makes by a type, from sizes: any size of inputs gets its own, and a trace leaves types alone."""

from __future__ import annotations

import pytest
import torch
from samples.table import Net, conv, linear
from torch import nn

import fxprune

MADE = {
    "sizes": lambda y: torch.Tensor(y.shape[0], 1, y.shape[2], y.shape[3]).fill_(0.5),
    "a shape": lambda y: torch.Tensor(y.size()).fill_(0.5),
    "one size": lambda y: torch.Tensor(y.shape[0]).fill_(0.5)[:, None, None, None],
    "a list": lambda y: torch.Tensor([y.shape[2], y.shape[3]]).sum(),
    "a list of whole numbers": lambda y: torch.LongTensor([y.shape[2], y.shape[3]]).sum(),
    "a nest of doubles": lambda y: torch.DoubleTensor([[y.shape[2]], [3]]).sum().float(),
    "truths": lambda y: torch.BoolTensor([y.shape[2] > 4, True]).sum(),
    "sizes by an older type": lambda y: torch.FloatTensor(1, 1, y.shape[2], 1).fill_(0.5),
    "its type": lambda y: type(y)(y.shape[0], 1, *y.shape[2:]).fill_(0.5),
    "its class": lambda y: y.__class__(y.shape).fill_(0.5),
    "new": lambda y: y.new(y.size(0), 1, y.size(2), 1).fill_(0.5),
    "new of a shape": lambda y: y.new(y.size()).fill_(0.5),
    "new of a list": lambda y: y.new([y.size(2), 2]).sum(),
    "new of a tensor": lambda y: y.new(y),
    "new of nothing": lambda y: y.new().resize_(y.shape).fill_(0.5),
}


@pytest.mark.parametrize("branch", [False, True], ids=["symbolic", "concrete"])
@pytest.mark.parametrize("kind", MADE)
def test_tensors_of_traced_sizes_have_the_sizes_of_the_input(kind, branch):
    def forward(s, x):
        y = s.a(x)
        return s.b(y + MADE[kind](y) if not branch or y.shape[2] > 1 else y)

    net = Net(forward, a=conv(3, 8), b=conv(8, 4)).eval()
    coupling = fxprune.couple(net, (torch.randn(2, 3, 4, 4),))
    assert not [node for node in coupling.graph_module.graph.nodes if str(node.target).startswith("aten")]
    x = torch.randn(3, 3, 5, 6)
    torch.testing.assert_close(coupling.graph_module(x), net(x), rtol=0, atol=0)  # the same operations


def test_older_types_answer_as_before_during_a_trace():
    def forward(s, x):
        own = torch.FloatTensor([1, 2]).type(torch.DoubleTensor)
        assert isinstance(own, torch.DoubleTensor)
        assert not isinstance(own, torch.FloatTensor)
        assert {torch.FloatTensor: 1}[torch.FloatTensor] == 1
        assert torch.LongTensor.dtype is torch.int64
        return s.a(x) * own.sum().float()

    net = Net(forward, a=linear(3, 4)).eval()
    coupling = fxprune.couple(net, (torch.randn(2, 3),))
    assert "a" in coupling.nodes, "exported"
    x = torch.randn(2, 3)
    torch.testing.assert_close(coupling.graph_module(x), net(x), rtol=0, atol=0)  # the same operations


def test_a_type_that_was_kept_before_the_trace_is_refused_in_a_sentence():
    kept = torch.LongTensor

    def forward(s, x):
        z = s.a(x) * kept([x.shape[2], 1]).sum()
        return s.b(z) if z.mean() > 0 else s.b(-z)

    with pytest.raises(fxprune.CaptureError, match=r"takes a number that depends on sizes for a list.* `torch.tensor"):
        fxprune.couple(Net(forward, a=conv(3, 8), b=conv(8, 4)).eval(), (torch.ones(2, 3, 4, 4),))


def test_types_are_as_before_after_a_trace():
    plain = torch.Tensor.__new__, torch.Tensor.new
    fxprune.couple(Net(lambda s, x: s.a(x), a=linear(3, 4)).eval(), (torch.randn(2, 3),))
    assert (torch.Tensor.__new__, torch.Tensor.new) == plain
    assert torch.Tensor(2, 3).shape == (2, 3)
    assert type(torch.FloatTensor) is type(torch.cuda.FloatTensor)
    assert isinstance(nn.Parameter(torch.Tensor([1.0])), torch.Tensor)
