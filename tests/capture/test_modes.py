"""Modes that a model enters (autocast, no gradients, inference) are blocks of its narrow network."""

from __future__ import annotations

import pytest
import torch
from helpers.networks.middle import IMAGES, Small, drawn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture
from fxprune.equivalence import observation


@torch.no_grad()
def without_gradients(s, y):
    return s.b(y)


@torch.autocast("cpu", enabled=False)
def in_full_precision(y):
    z = (y.float() * 300).flatten(2)
    return torch.bmm(z, z.mT).mean((1, 2))[:, None, None, None] / 1e5


def island(s, y):
    with torch.autocast(device_type=y.device.type, enabled=False):
        z = (y.float() * 300).flatten(2)
        z = torch.bmm(z, z.mT).mean((1, 2))[:, None, None, None] / 1e5
    return y + z.to(y.dtype)


def no_gradients(s, y):
    with torch.no_grad():
        z = s.b(y)
    return y + z


def gradients_set(s, y):
    with torch.set_grad_enabled(False):
        z = s.b(y)
    return y + z


def inference(s, y):
    with torch.inference_mode():
        z = s.b(y).mean()
    return y + z


MODES = {
    "island": island,
    "decorated island": lambda s, y: y + in_full_precision(y),
    "no_grad": no_gradients,
    "decorated no_grad": lambda s, y: y + without_gradients(s, y),
    "set_grad_enabled": gradients_set,
    "inference_mode": inference,
}


@pytest.mark.parametrize("name", MODES)
def test_what_is_computed_in_a_mode_is_computed_in_a_block(name):
    model = Small(MODES[name]).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert "with torch." in narrow.code
    # float32, a network of four layers: sums of eight columns in another order.
    torch.testing.assert_close(drawn(narrow, IMAGES), drawn(snapped, IMAGES), rtol=1e-5, atol=1e-5)


def contractions(network, dtype):
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype), observation.Watch({}) as watch:
        out = network(IMAGES)
    return watch.precisions(), out


def test_an_island_stays_in_full_precision_under_the_callers_autocast():
    model = Small(island).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)
    assert "with torch.autocast(" in narrow.code
    assert contractions(narrow, torch.bfloat16)[0] == {torch.bfloat16, torch.float32}
    assert contractions(narrow, torch.float16)[1].isfinite().all()
    with pytest.raises(RuntimeError):
        narrow(torch.zeros(2, 4, 8, 8))
    assert torch.is_autocast_enabled("cpu") is False


def test_an_error_inside_a_block_leaves_the_mode():
    model = Small(lambda s, y: gradients_set(s, y[:, :, :8])).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(model, plan), plan)

    def fail(*_):
        assert not torch.is_grad_enabled()
        raise ValueError("inside")

    narrow.b.register_forward_hook(fail)
    with pytest.raises(ValueError, match="inside"):
        narrow(IMAGES)
    assert torch.is_grad_enabled()


def test_gradients_stop_where_they_stop_in_the_model():
    model = Small(lambda s, y: y.mean() + without_gradients(s, y)).eval()
    captured = capture(model, (IMAGES,))
    for network in (model, captured):
        network.zero_grad()
        network(IMAGES).sum().backward()
    assert captured.a.weight.grad is not None
    # float32, the same operations.
    torch.testing.assert_close(captured.a.weight.grad, model.a.weight.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODES)
def test_a_graph_that_is_captured_again_keeps_its_blocks(name):
    first = capture(Small(MODES[name]).eval(), (IMAGES,))
    assert capture(first, (IMAGES,)).code.count("with torch.") == first.code.count("with torch.") == 1


@pytest.mark.parametrize("name", ["no_grad", "decorated no_grad", "set_grad_enabled", "inference_mode"])
def test_an_export_without_the_blocks_of_gradients_raises_an_error_where_they_count(name):
    captured = capture(Small(MODES[name]).eval(), (IMAGES,), ways=["export"])
    with pytest.raises(SpecialisedError, match=r"is_grad_enabled.*was False"):
        captured(IMAGES)
    with torch.no_grad():
        captured(IMAGES)


def test_an_export_sends_gradients_where_nothing_stops_them():
    model = Small(lambda s, y: y + s.b(y).detach()).eval()
    captured = capture(model, (IMAGES,), ways=["export"])
    for network in (model, captured):
        network.zero_grad()
        network(IMAGES).sum().backward()
    # float32, the same operations.
    torch.testing.assert_close(captured.a.weight.grad, model.a.weight.grad, rtol=1e-5, atol=1e-6)
