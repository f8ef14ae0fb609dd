"""An object that raises an error for what it is asked, or recurses, does not end a capture."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from fxprune.common.objects import attribute_or, is_a, package_of, state_of, table_of, text_of


class Table:
    @property
    def __dict__(self):
        raise RuntimeError("no table")


class Number:
    __dict__ = 3


class Class:
    @property
    def __class__(self):
        return self.__class__


class Module:
    __module__ = property(lambda self: 1 / 0)


class Text:
    def __repr__(self):
        raise RuntimeError("no text")

    __eq__ = __hash__ = __bool__ = __len__ = __repr__


class Set(set):
    __iter__ = Text.__repr__


class Bytes(bytes):
    __hash__ = Text.__repr__


class Held(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 1)
        self.held = held

    def forward(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize("kind", [Table, Number, Class, Module, Text, Set, Bytes])
@pytest.mark.parametrize("put", [list, tuple])
def test_a_network_may_hold_objects_that_answer_nothing(kind, put):
    kind.__deepcopy__ = lambda self, memo: self
    net = Held(put([kind()])).double().eval()
    assert fxprune.prove(net, torch.ones(2, 3, 8, dtype=torch.float64)).passed


def test_an_object_without_an_answer_has_none():
    assert table_of(Table()) == table_of(Number()) == {} and table_of(Held(None))["training"]
    assert attribute_or(Table(), "__dict__", 1) == 1 and attribute_or(Number(), "__dict__") == 3
    assert not is_a(Class(), int) and is_a(True, int)
    assert package_of(Module) == "" and package_of(nn.ReLU) == "torch"
    assert text_of(Text()) == "" and text_of("a") == "'a'"
    assert Table in state_of(Table()) and state_of(Class()) is None
