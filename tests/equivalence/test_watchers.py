"""A model that tells a watched call from others is refused."""

from __future__ import annotations

import pytest
import torch
from helpers.networks.middle import IMAGES, Small
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode as watched

from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture
from fxprune.equivalence.programs import TELLS, Tells
from fxprune.errors import CaptureError


def keeps_and_tries(s, y):
    """Set an attribute, so that numbers are compared, and handle an error of watched calls."""
    s.mean = y.mean()
    try:
        if getattr(torch._C, "_len_torch_" + "dispatch_stack")():
            raise RuntimeError
        return y * 2
    except RuntimeError:
        return y


class Asking:
    """An object of a network that asks."""

    def __call__(self, y):
        return y if _python_dispatch._get_current_dispatch_mode() is not None else y * 2


TOLD = {
    "asks": lambda s, y: y if _python_dispatch.is_in_torch_dispatch_mode() else y * 2,
    "counts": lambda s, y: y * (1 + min(torch._C._len_torch_dispatch_stack(), 1)),
    "another name": lambda s, y: y if watched() else y * 2,
    "an object": lambda s, y: s.asking(y),
    "an error": keeps_and_tries,
}


@pytest.mark.parametrize("name", TOLD)
def test_a_model_that_does_something_else_where_it_is_watched_is_refused_with_its_line(name):
    model = Small(TOLD[name]).eval()
    model.asking = Asking()
    with pytest.raises(CaptureError, match=f"{TELLS}, as it may tell at equivalence/test_watchers.py:"):
        capture(model, (IMAGES,))


def test_one_that_does_so_in_training_gives_a_graph_of_eval_mode():
    """It does so in a trace, too."""

    def middle(s, y):
        told = watched() or torch.fx._symbolic_trace.is_fx_symbolic_tracing()
        return y * 2 if s.training and not told else y

    model = Small(middle).eval()
    graph = capture(model, (IMAGES,))
    torch.testing.assert_close(graph(IMAGES), model(IMAGES))
    with pytest.raises(SpecialisedError, match="captured in eval mode"):
        graph.train()(IMAGES)


def test_one_that_fails_where_nobody_watches_is_refused():
    def fails(s, y):
        assert watched()
        return y

    with pytest.raises(CaptureError, match=f"{TELLS}.* does not run: AssertionError"):
        capture(Small(fails).eval(), (IMAGES,), ways=["concrete"])


def test_lines_of_code_that_cannot_tell_are_none():
    tells = Tells([*Small().modules()])
    assert not tells.asks
    assert not tells.handles
