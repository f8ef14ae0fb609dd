"""An oracle finds a rule for uniform axes that is broken on purpose, or its rewrite."""

from __future__ import annotations

import operator

import pytest
import torch.nn.functional as F
from samples import SAMPLES

import fxprune
from fxprune.analysis.marks import Marks
from fxprune.passes.rewrite import calls, copies, graph


def proved(name):
    sample = SAMPLES[name]
    return fxprune.prove(sample.net, sample.inputs).passed


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("expanded map, summed", "sum of an axis that was expanded"),
        ("zeros that are filled", "an expanded or new tensor, changed in place"),
    ],
)
def test_what_freezes_must(name, why, monkeypatch):
    assert proved(name)
    freeze = Marks.freeze
    monkeypatch.setattr(Marks, "freeze", lambda marks, said, *axes: said == why or freeze(marks, said, *axes))
    assert not proved(name)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("slice written back", operator.setitem),
        ("expanded map, flattened", "expand_as"),
        ("map repeated", "repeat"),
        ("map interleaved", "repeat_interleave"),
        ("new ones", "new_ones"),
        ("new by its older name", "new_empty"),
        ("single channels changed in place", "select"),
        ("functional group norm, a channel each", F.group_norm),
    ],
)
def test_what_is_rewritten_must_be(name, target, monkeypatch):
    assert proved(name)
    monkeypatch.setitem(calls.CASES, target, lambda site: None)
    assert not proved(name)


@pytest.mark.parametrize(
    ("name", "room", "part", "answer"),
    [
        ("in place on views with a step", graph, "put_back", None),
        ("copies of a slice with a step", copies, "_steps_elsewhere", False),
    ],
)
def test_channels_picked_with_a_step_are_put_back_and_copied(name, room, part, answer, monkeypatch):
    assert proved(name)
    monkeypatch.setattr(room, part, lambda *_: answer)
    assert not proved(name)
