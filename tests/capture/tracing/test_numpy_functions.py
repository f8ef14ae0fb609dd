"""A function of NumPy on a size gives its number at every size, or the graph is guarded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.networks.middle import IMAGES, Small

from fxprune.arguments.guards import SpecialisedError
from fxprune.capture import capture


class Whole(Small):
    """A network in whose module ``int`` is recorded."""


EXACT = {
    "int": lambda s, y: y * int(np.ceil(y.shape[0] / 4)),
    "ceil": lambda s, y: y * np.ceil(y.shape[0] / 4),
    "ceil of a size": lambda s, y: y / np.ceil(y.shape[0]),
    "floor": lambda s, y: y * (1 + np.floor(y.shape[0] / 4)),
    "trunc": lambda s, y: y * (1 + np.trunc(y.shape[0] / 4)),
    "sqrt": lambda s, y: y / np.sqrt(y.shape[0]),
    "in a sum": lambda s, y: y * (np.float64(2.0) + np.ceil(y.shape[0] / 4)),
    "prod": lambda s, y: y * np.prod(y.shape[:1]),
    "operator": lambda s, y: y * np.floor_divide(y.shape[0] + 3, 4),
    "of a number": lambda s, y: y * np.log(8) * math.ceil(y.shape[0] / 4),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_function_of_a_batch_holds_for_every_batch(name):
    model = Whole(EXACT[name]).eval()
    graph = capture(model, (IMAGES,))
    for batch in (1, 3, 5, 9):
        images = torch.randn(batch, *IMAGES.shape[1:])
        torch.testing.assert_close(graph(images), model(images))


GUARDED = {
    "log": lambda s, y: y * np.log(1 + y.shape[0]),
    "int of log2": lambda s, y: y * int(1 + np.log2(y.shape[0])),
    "minimum": lambda s, y: y * np.minimum(y.shape[0], 3),
    "fmin": lambda s, y: y * np.fmin(y.shape[0], 5),
}


@pytest.mark.parametrize("name", GUARDED)
def test_another_function_of_a_batch_holds_for_the_batch_of_the_example(name):
    model = Whole(GUARDED[name]).eval()
    graph = capture(model, (IMAGES,))
    torch.testing.assert_close(graph(IMAGES), model(IMAGES))
    with pytest.raises(SpecialisedError):
        graph(torch.randn(7 - len(IMAGES), *IMAGES.shape[1:]))
