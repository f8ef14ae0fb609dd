"""A number depends on an input if a length that may change, or a number that is given, goes into it."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from fxprune.analysis.channels import Channels
from fxprune.analysis.labels import Label, Labels
from fxprune.analysis.lengths import InputLengths


class Noted:
    """A graph whose nodes are noted as they are made: images ``x``, pooled ``p`` without samples, a parameter ``w``."""

    def __init__(self):
        self.graph, self.labels, self.lengths, self.env = fx.Graph(), Labels(), InputLengths(Channels()), {}
        self.x = self.tensor(self.graph.placeholder("x"), ((-2,), (8,), (4,), (-6,)))
        self.p = self.tensor(self.graph.placeholder("p"), ((4,), (-6,)))
        self.w = self.noted(self.graph.get_attr("w"), torch.zeros(4, 6))
        self.given = self.noted(self.graph.placeholder("given"), 3)

    def tensor(self, node, factors):
        value = torch.zeros([abs(each[0]) for each in factors])
        self.labels.attach(value, Label((None,) * len(factors), factors=factors))
        return self.noted(node, value)

    def noted(self, node, value=1):
        self.lengths.note(node, value, self.env, self.labels)
        self.env[node] = value
        return node

    def method(self, name, *args, **options):
        return self.noted(self.graph.call_method(name, args, options))

    def call(self, target, *args):
        return self.noted(self.graph.call_function(target, args))

    def shape(self, node):
        return self.call(getattr, node, "shape")


NUMBERS = {
    "an open size": (lambda n: n.method("size", n.x, 0), True),
    "a fixed size": (lambda n: n.method("size", n.x, 2), False),
    "an open size by name": (lambda n: n.method("size", n.x, dim=3), True),
    "a fixed size by name": (lambda n: n.method("size", n.x, dim=1), False),
    "a size on an axis that is computed": (lambda n: n.method("size", n.p, n.method("dim", n.p)), True),
    "one of all sizes": (lambda n: n.call(operator.getitem, n.method("size", n.x), 0), True),
    "a fixed one of all sizes": (lambda n: n.call(operator.getitem, n.method("size", n.x), 2), False),
    "one of a shape": (lambda n: n.call(operator.getitem, n.shape(n.x), 3), True),
    "a fixed one of a shape": (lambda n: n.call(operator.getitem, n.shape(n.x), -2), False),
    "some of a shape": (lambda n: n.call(operator.getitem, n.shape(n.x), slice(0, 2)), True),
    "fixed ones of a shape": (lambda n: n.call(operator.getitem, n.shape(n.x), slice(1, 3)), False),
    "one of a shape, at a given place": (lambda n: n.call(operator.getitem, n.shape(n.x), n.given), True),
    "a number of elements": (lambda n: n.method("numel", n.p), True),
    "a number of elements by a function": (lambda n: n.call(torch.numel, n.p), True),
    "a number of axes": (lambda n: n.method("dim", n.x), False),
    "a number of axes as an attribute": (lambda n: n.call(getattr, n.x, "ndim"), False),
    "a length": (lambda n: n.method("__len__", n.x), True),
    "a fixed length": (lambda n: n.method("__len__", n.p), False),
    "a product": (lambda n: n.call(operator.mul, n.method("size", n.x, 1), n.method("size", n.x, 0)), True),
    "a product of fixed sizes": (lambda n: n.call(operator.mul, n.method("size", n.x, 1), 4), False),
    "the size of a parameter": (lambda n: n.method("size", n.w, 0), False),
    "one of a parameter's shape": (lambda n: n.call(operator.getitem, n.shape(n.w), 0), False),
    "a given number": (lambda n: n.given, True),
    "what is read otherwise": (lambda n: n.method("storage_offset", n.x), True),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_hangs_on_the_open_lengths_that_go_into_it(name):
    made, hangs = NUMBERS[name]
    noted = Noted()
    user = noted.graph.call_method("view", (noted.x, made(noted), -1))
    assert noted.lengths.has_open_number(user) is hangs
    assert not noted.lengths.has_open_number(None)


T, F = True, False
SIZES = {
    "none": (lambda n: None, [F, F], [F, F]),
    "no view": (lambda n: n.method("relu", n.x), [F, F], [F, F]),
    "view": (lambda n: n.method("view", n.x, n.given, 8, -1), [T, F, None], [F, T, F]),
    "view as a tuple": (lambda n: n.method("view", n.x, (8, n.given, -1)), [F, T, None], [T, F, F]),
    "view as a vector": (lambda n: n.method("view", n.x, 24), [F], [T]),
    "view as a shape": (lambda n: n.method("view", n.x, n.shape(n.x)), [T, F, F, T], [F, T, T, F]),
    "view as the shape of a parameter": (lambda n: n.method("view", n.p, n.shape(n.w)), [F, F], [T, T]),
    "view of another rank": (lambda n: n.method("view", n.x, 8, -1), [T, T, T], [F, F, F]),
    "reshape by name": (lambda n: n.method("reshape", n.x, shape=(8, -1)), [F, None], [T, F]),
    "unflatten": (lambda n: n.method("unflatten", n.x, 1, (2, -1)), [F, F, None, F, F], [F, T, F, F, F]),
    "unflatten the last": (lambda n: n.method("unflatten", n.x, -1, [n.given, 3]), [F, F, F, T, F], [F, F, F, F, T]),
    "unflatten by name": (lambda n: n.method("unflatten", n.p, dim=0, sizes=(2, 2)), [F, F, F], [T, T, F]),
    "unflatten at a given axis": (lambda n: n.method("unflatten", n.p, n.given, (2, 2)), [T, T, T], [F, F, F]),
    "unflatten to a shape": (lambda n: n.method("unflatten", n.p, 0, n.shape(n.w)), [T, T, T], [F, F, F]),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_sizes_of_a_view_are_stated_open_or_hang_on_an_input(name):
    made, asked, stated = SIZES[name]
    noted = Noted()
    node = made(noted)
    assert noted.lengths.asked(node, len(asked)) == asked
    assert noted.lengths.stated(node, len(asked)) == stated
