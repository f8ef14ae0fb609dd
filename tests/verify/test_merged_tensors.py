"""Tensors are compared through the plan, so that a change which no input shows is found as well."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.jobs.inputs import planned

import fxprune
from fxprune.passes.merge.snap import snap
from fxprune.passes.verify.tensors import differing, tensor_errors

X = torch.zeros(2, 1, 8, 8)  # dead: nothing but biases and statistics arrives anywhere


def pair():
    model, plan = planned()
    snapped = snap(model, plan)
    return snapped, fxprune.narrow(snapped, plan), plan


def test_the_networks_of_a_trim_agree():
    snapped, narrow, plan = pair()
    errors = tensor_errors(snapped, narrow, plan)
    assert errors.keys() == dict(narrow.state_dict()).keys() and set(errors.values()) == {0.0}
    assert fxprune.verify(snapped, narrow, X, tolerance=1e-6).passed


@pytest.mark.parametrize("name", ["first.weight", "norm.running_var", "second.weight", "second.bias", "head.weight"])
@pytest.mark.parametrize("side", ["wide", "narrow"])
def test_a_change_in_one_number_is_named(name, side):
    snapped, narrow, plan = pair()
    if name == "first.weight":  # unseen by outputs: the images are zero
        assert fxprune.verify(snapped, narrow, X, tolerance=1e-6).passed
    with torch.no_grad():
        changed = (snapped if side == "wide" else narrow).state_dict()[name]
        changed.view(-1)[0] += 1
    assert list(differing(tensor_errors(snapped, narrow, plan), 1e-6, narrow)) == [name]
    report = fxprune.verify(snapped, narrow, X, tolerance=1e-6)
    assert not report.passed and f"tensor {name}" in report.errors
    if name == "first.weight":
        assert report.reason.startswith("`first.weight` is not what the plan makes of the reference's weights")


def test_rounding_to_another_type_is_no_change():
    snapped, narrow, _ = pair()
    assert fxprune.verify(snapped.double(), narrow, X, tolerance=1e-6).passed
    assert fxprune.verify(snapped, copy.deepcopy(narrow).bfloat16().float(), X, tolerance=0.02).passed


def test_what_is_no_trim_of_the_reference_is_judged_by_its_outputs():
    snapped, narrow, plan = pair()
    assert tensor_errors(narrow, narrow, plan) is None
    assert fxprune.verify(narrow, copy.deepcopy(narrow), X).passed
    rewritten = copy.deepcopy(narrow)
    rewritten.head.add_module("more", torch.nn.Identity())
    del rewritten.norm
    assert tensor_errors(snapped, rewritten, plan) is None
