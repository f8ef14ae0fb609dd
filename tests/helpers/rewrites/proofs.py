"""A sample proved and narrowed once for the tests that look at it; see ``TOGETHER`` in tests/conftest.py."""

from __future__ import annotations

import dataclasses
import functools
import sys

import pytest
import torch
from samples import SAMPLES

import fxprune
from fxprune.analysis.rules import RULES
from fxprune.capture import capture
from fxprune.passes.rewrite import merged_by

CALLED = set()  # the rules that ran
TARGETS = set()  # what the graphs call
_DONE = set()


def proved(name):
    """The proof of a sample, in float64; nobody changes it, nor its plan and coupling."""
    return _proved(name)[0]


def narrowed(name):
    """The networks of the proof, snapped and narrow, with the buffers that it left: a network may change its own."""
    _, pair, buffers, _ = _proved(name)
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return pair


def captured(name):
    """The network of the proof, and its graph as it was captured, without stored computed weights."""
    network, coupling = _proved(name)[3], proved(name).plan.coupling
    stored = bool(coupling.functions)
    return network, capture(network, coupling.example_inputs, check=False) if stored else coupling.graph_module


def prove_all():
    """Fill ``CALLED`` and ``TARGETS``."""
    for name in SAMPLES.keys() - _DONE:
        proved(name)


@functools.cache
def _heard_rules():
    """The rules, each of which tells that it ran."""

    def heard(function):
        def call(*args):
            CALLED.add(function)
            return function(*args)

        return call

    return {operator: dataclasses.replace(entry, rule=heard(entry.rule)) for operator, entry in RULES.items()}


# One: each graph is a class of its own, and whatever is patched in `nn.Module` visits them all.
@functools.lru_cache(maxsize=1)
def _proved(name):
    pair, subjects = [], []

    def coupled(subject, *args, **options):
        subjects[:] = [subject]
        return fxprune.couple(subject, *args, **options)

    def merged(plan, snapped):
        made = merged_by(plan, snapped)
        pair[:] = snapped, made[0]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fxprune.analysis.rules.registry.RULES", _heard_rules())
        patch.setattr(sys.modules["fxprune.passes.verify.prove"], "merged_by", merged)
        patch.setattr(sys.modules["fxprune.passes.verify.prove"], "couple", coupled)
        proof = fxprune.prove(SAMPLES[name].net, SAMPLES[name].inputs)
    graph = proof.plan.coupling.graph_module.graph
    for node in graph.nodes:
        if node.op in ("call_function", "call_method"):
            TARGETS.update((node.target, getattr(node.target, "overloadpacket", None)))
    _DONE.add(name)
    return proof, pair, [(buffer, buffer.clone()) for network in pair for buffer in network.buffers()], *subjects
