"""A model that asks for the types of its values gets those of the values, not those of what stands for them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import fxprune

IMAGES = torch.randn(2, 3, 8, 8)


KEPT = {}


@functools.lru_cache
def kind_of(value):
    return type(value)


def kept(value):
    found = KEPT.setdefault("type", type(value))
    return int if found is int else None


def derived():
    class Kind(type):
        def twice(cls):
            return type(cls) is Kind

    return Kind("New", (), {"held": True}).held and Kind("New", (), {}).twice() and not isinstance(int, Kind)


class Asking(nn.Module):
    def __init__(self, asks):
        super().__init__()
        self.asks, self.a, self.b = asks, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.weight = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(8, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        y = self.a(x)
        if self.asks(self, x, y):
            y = self.b(y).relu() * self.weight + self.shift
        return self.head(y.mean((2, 3)))


QUESTIONS = {
    "a tensor": lambda s, x, y: type(y) is torch.Tensor,
    "equal": lambda s, x, y: type(y) == torch.Tensor,  # noqa: E721 (as models ask)
    "by name": lambda s, x, y: type(y).__name__ == "Tensor",
    "in a table": lambda s, x, y: {torch.Tensor: True}.get(type(y), False),
    "a subclass": lambda s, x, y: issubclass(type(y), torch.Tensor),
    "an input": lambda s, x, y: type(x) is torch.Tensor and type(x) is type(y),
    "a parameter": lambda s, x, y: isinstance(s.weight, nn.Parameter) and type(s.weight) is nn.Parameter,
    "class of a parameter": lambda s, x, y: s.weight.__class__ is nn.Parameter,
    "a buffer": lambda s, x, y: not isinstance(s.shift, nn.Parameter) and type(s.shift) is torch.Tensor,
    "computed from a parameter": lambda s, x, y: type(s.weight * 2) is torch.Tensor,
    "an integer": lambda s, x, y: type(x.shape[2]) is int and type(int(x.shape[2] / 2)) is int,
    "a plain integer": lambda s, x, y: type(len(s.a.kernel_size)) is int and type(int) is type,
    "a float": lambda s, x, y: type(x.shape[2] / 2) is float,
    "a shape": lambda s, x, y: type(x.shape) is torch.Size and type(s.weight.shape) is torch.Size,
    "sequences": lambda s, x, y: type(tuple(x.shape)) is tuple and type([x]) is list,
    "types": lambda s, x, y: isinstance(torch.Tensor, type) and type(type) is type and issubclass(type, type),
    "a new type": lambda s, x, y: type("New", (), {"held": True}).held,
    "a derived type": lambda s, x, y: derived(),
    "a kind of types": lambda s, x, y: type[int] == type[int] and isinstance(int, type | None),
    "a shape is a tuple": lambda s, x, y: issubclass(type(x.shape), tuple) and tuple in type(x.shape).__mro__,
    "the text of a type": lambda s, x, y: str(type(x.shape[2])) == "<class 'int'>",
    "the module of a type": lambda s, x, y: type(x.shape[2]).__module__ == "builtins",
    "a layer": lambda s, x, y: type(s) is Asking and type(s.a) is nn.Conv2d,
}


@pytest.mark.parametrize("dtype", [False, True], ids=["dynamic", "literal"])
@pytest.mark.parametrize("asked", QUESTIONS)
def test_types_are_those_of_the_values(asked, dtype):
    question = QUESTIONS[asked]

    def asks(s, x, y):
        known = {torch.float32: True}[x.dtype] if dtype else True  # a key, which no proxy is
        return known and question(s, x, y)

    net = Asking(asks).eval()
    coupling = fxprune.couple(net, (IMAGES,))
    assert not [node for node in coupling.graph_module.graph.nodes if str(node.target).startswith("aten")]
    assert "b" in coupling.nodes, "another branch"
    x = torch.randn(3, 3, 9, 7)
    torch.testing.assert_close(coupling.graph_module(x), net(x), rtol=0, atol=0)  # the same operations


def test_names_are_left_alone_after_a_trace():
    fxprune.couple(Asking(QUESTIONS["a tensor"]).eval(), (IMAGES,))
    assert not {"type", "int", "len"} & globals().keys()


@pytest.mark.parametrize("keeping", [kind_of, kept])
def test_what_a_model_keeps_is_the_type_itself(keeping):
    net = Asking(lambda s, x, y: x.shape[2] > 4 and keeping(3) is int).eval()
    kind_of.cache_clear()
    wanted = net(IMAGES)
    kind_of.cache_clear()
    KEPT.clear()
    coupling = fxprune.couple(net, (IMAGES,))
    assert kind_of(3) is int and KEPT.get("type", int) is int
    torch.testing.assert_close(coupling.graph_module(IMAGES), wanted)
