"""Containers and settings of Python, which the classes and the forward of a network may change."""

import collections
import contextlib
import decimal
import functools
import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import CaptureError

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, change=None):
        super().__init__()
        self.a, self.b, self.change = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), change

    def forward(self, x):
        if self.change is not None:
            self.change(self)
        return self.b(self.a(x))


def fails(*_):
    raise ValueError("of a class of the model")


def odd(kind, *names):
    return type("Odd", (kind,), dict.fromkeys(names, fails))([(1, 2)])


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, list, set])
@pytest.mark.parametrize("name", ["__iter__", "__len__", "__eq__", "__bool__", "keys", "values"])
def test_containers_of_classes_that_raise_are_no_obstacle(name, kind):
    net = Net().eval()
    net.odd = {"inside": odd(kind, name)}
    net.other = odd(kind, name)
    with contextlib.suppress(CaptureError):  # of one that Python itself cannot copy
        fxprune.couple(net, IMAGES)


def in_python():
    return warnings.filters[:], logging.root.level, np.get_printoptions(), decimal.getcontext().prec


def test_settings_of_python_are_as_after_any_call():
    """Nobody can tell who else has changed them."""

    def change(_):
        warnings.simplefilter("ignore", FutureWarning)
        logging.root.setLevel(logging.ERROR)
        decimal.getcontext().prec = 5

    net, level = Net(change).eval(), logging.root.level
    try:
        with warnings.catch_warnings(), decimal.localcontext():
            fxprune.couple(net, IMAGES)
            found = in_python()
            net(IMAGES)
            assert found == in_python()
    finally:
        logging.root.setLevel(level)


def ramp(length, kind):
    return torch.arange(length).to(kind) / 8


bounded, unbounded = functools.lru_cache(4)(ramp), functools.lru_cache(None)(ramp)


class Positions(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(x + (unbounded if self.change is None else bounded)(x.shape[3], x.dtype))


@pytest.mark.parametrize("change", [None, "bounded"])
def test_a_function_that_keeps_its_results_keeps_none_of_a_comparison(change):
    torch.manual_seed(0)
    net = Positions(change).eval()
    fxprune.couple(net, IMAGES)
    assert unbounded.cache_info().currsize == bounded.cache_info().currsize == 0
    with torch.autocast("cpu"):
        assert type(net(IMAGES)) is torch.Tensor
    unbounded.cache_clear(), bounded.cache_clear()
