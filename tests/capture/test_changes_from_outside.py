"""A network whose code changes the object it closes over: no copy shows what a later call computes."""

from __future__ import annotations

import pytest
import torch
from helpers.networks.middle import IMAGES, Small
from torch import nn

import fxprune
from fxprune.errors import CaptureError


def removes_itself(net):
    def hook(module, args, out):
        handle.remove()
        return out * 2

    handle = net.a.register_forward_hook(hook)
    return "`a`"


def removes_itself_by_an_attribute(net):
    net.handle = net.a.register_forward_hook(lambda module, args, out: (net.handle.remove(), out * 2)[1])
    return "`a`"


def removes_itself_from_the_root(net):
    def hook(module, args):
        handle.remove()
        return (args[0] * 2,)

    handle = net.register_forward_pre_hook(hook)
    return "the Small itself"


def adds_another_once(net):
    def hook(module, args):
        if not net.b._forward_hooks:
            net.b.register_forward_hook(lambda module, args, out: out * 2)

    net.a.register_forward_pre_hook(hook)
    return "`b`"


def replaces_a_layer(net):
    def hook(module, args, out):
        net.bn = nn.Identity()

    net.b.register_forward_hook(hook)
    return "the Small itself"


CHANGES = [
    removes_itself,
    removes_itself_by_an_attribute,
    removes_itself_from_the_root,
    adds_another_once,
    replaces_a_layer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_hooks_that_change_the_wiring_of_the_model_itself_are_refused(change):
    model = Small().eval()
    where = change(model)
    tables = [dict(module._forward_hooks) | dict(module._modules) for module in model.modules()]
    with pytest.raises(CaptureError, match=f"keeps changes of the hooks, layers or tensors of {where}"):
        fxprune.couple(model, IMAGES)
    assert tables == [dict(module._forward_hooks) | dict(module._modules) for module in model.modules()]


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_an_analysis_without_comparison_restores_the_wiring(change):
    model = Small().eval()
    change(model)
    wanted = model(IMAGES)
    model = Small().eval()
    change(model)
    fxprune.couple(model, IMAGES, check=False)
    torch.testing.assert_close(model(IMAGES), wanted, rtol=0, atol=0)  # the first call


def test_what_a_hook_counts_in_the_model_itself_is_state():
    model = Small().eval()
    model.history = []

    def hook(module, args, out):
        model.history.append(None)
        return out * 2 if len(model.history) > 18 else out

    model.fc.register_forward_hook(hook)
    with pytest.raises(CaptureError, match="keeps `history`"):
        fxprune.couple(model, IMAGES)
    assert model.history == []


def test_what_a_hook_stores_in_the_model_itself_and_nobody_reads_is_no_state():
    model = Small().eval()
    model.fc.register_forward_hook(lambda module, args, out: setattr(model, "features", args[0]))
    assert fxprune.couple(model, IMAGES).groups
    assert not hasattr(model, "features")


def test_a_table_that_each_call_fills_alike_is_no_state():
    model = Small().eval()
    model.seen = {}
    model.fc.register_forward_hook(lambda module, args, out: model.seen.update(features=args[0]))
    assert fxprune.couple(model, IMAGES).groups
    assert model.seen == {}


def test_what_a_hook_records_in_a_module_outside_of_the_network_is_no_state():
    model, recorder = Small().eval(), nn.Module()
    recorder.features = []
    model.fc.register_forward_hook(lambda module, args, out: recorder.features.append(args[0]))
    assert fxprune.couple(model, IMAGES).groups
