"""Samples proved and narrowed once for all tests that look at them; see ``TOGETHER`` in tests/conftest.py."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from samples import SAMPLES

import fxprune
from fxprune.analysis.rules import RULES, pointwise

from .unequal import snapped_and_narrow

CALLED = set()  # the rules that ran


@functools.cache
def proved(name):
    """The proof of a sample, in float64; nobody changes it, nor its plan and coupling."""

    def heard(function):
        def call(*args):
            CALLED.add(function)
            return function(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for operator, entry in list(RULES.items()):
            patch.setitem(RULES, operator, dataclasses.replace(entry, rule=heard(entry.rule)))
        patch.setattr("fxprune.analysis.interpreter.pointwise", heard(pointwise.pointwise))
        return fxprune.prove(SAMPLES[name].net, SAMPLES[name].inputs)


@functools.cache
def narrowed(name):
    """The network of the proof: snapped, and narrow."""
    plan = proved(name).plan
    return snapped_and_narrow(plan.coupling.network, plan)
