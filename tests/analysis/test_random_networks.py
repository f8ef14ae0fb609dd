"""Random networks: what is found to merge merges, and the narrow network computes the same, whatever it is made of."""

from __future__ import annotations

import dataclasses
import operator
import random
import sys

import pytest
from helpers.faults import first_columns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

import fxprune
from benchmarks.random_networks import oracles as random_oracles
from benchmarks.random_networks.draw import BATCH, build, networks
from benchmarks.random_networks.network import Draw
from benchmarks.random_networks.operations import OPERATIONS
from benchmarks.random_networks.oracles import Wrong, examine
from benchmarks.random_networks.precision import precision
from fxprune.analysis.call import Call
from fxprune.analysis.rules import RULES
from fxprune.errors import FxpruneError
from fxprune.passes.rewrite import calls as rewrite_calls
from fxprune.passes.rewrite import layers as attributes
from fxprune.passes.rewrite.narrow import narrow

# The same networks in every run, on any machine, however long each takes; nothing is written to disk.
SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("most", [3, 5, 8, 12])
def test_every_network_computes_the_same(most):
    changes = []

    @settings(max_examples=50, **SETTINGS)
    @given(networks(most), st.integers(0, 999), st.booleans())
    def check(drawn, seed, whole):
        changes.append(examine(drawn, seed, whole=whole).change)

    check()
    # Equal rows move most outputs: the comparison could fail.
    assert sum(change > 1e-3 for change in changes) > len(changes) / 2


def test_every_operation_is_drawn():
    draw, drawn = random.Random(2), set()
    for _ in range(250):
        drawn.update(build(Draw(draw.randrange), 12).network.operators())
    assert {operation.__name__ for each in OPERATIONS.values() for operation in each} - drawn == set()


def made(seed, most=8):
    """The network of a seed: what is not drawn by hypothesis is as random, and comes sooner."""
    return build(Draw(random.Random(seed).randrange), most)


def fault(seed):
    """Return the fault of the network of a seed, in words."""
    try:
        examine(made(seed), seed)
    except (Wrong, FxpruneError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def rule_of(name, rule):
    def broken(monkeypatch):
        for op, entry in list(RULES.items()):
            if name in op.name():
                monkeypatch.setitem(RULES, op, dataclasses.replace(entry, rule=rule(entry.rule)))

    return broken


def case_of(target, case=lambda site: None):
    return lambda monkeypatch: monkeypatch.setitem(rewrite_calls.CASES, target, case)


class Spoilt(nn.Module):
    """The narrow network, but for one fault."""

    def __init__(self, narrow, fault):
        super().__init__()
        self.narrow, self.fault, self.calls = narrow, fault, 0

    def forward(self, *inputs):
        self.calls += 1
        wrong = {"second call": self.calls == 2, "batch of 1": len(inputs[0]) == 1, "training": self.training}[
            self.fault
        ]
        return pytree.tree_map(lambda x: x + 1e-6, self.narrow(*inputs)) if wrong else self.narrow(*inputs)


def spoilt(fault):
    return lambda monkeypatch: monkeypatch.setattr(
        random_oracles, "narrow", lambda *args: Spoilt(narrow(*args), fault).eval()
    )


CONCENTRATE = sys.modules["fxprune.passes.merge.concentrate"]  # the package hands out a function of this name
FAULTS = {
    "norms are not tied": (rule_of("batch_norm", lambda _: first_operand), "Wrong: concentrated: ", 16),
    "rows of heads are not bundled": (
        lambda m: m.setattr(Call, "unify_rows", lambda s, rows, why: rows[0]),
        "Wrong: concentrated: ",
        50,
    ),
    "columns are taken for rows": (
        lambda m: m.setattr(Call, "read", lambda s, ids, of: s.tie(ids)),
        "Wrong: narrow: ",
        0,
    ),
    "an average is not balanced": (lambda m: m.setattr(Call, "balance", lambda *_: None), "Wrong: narrow: ", 33),
    "a product is not multiplied": (case_of(operator.matmul), "Wrong: narrow: ", 3),
    "columns are not added up": (
        lambda m: m.setattr(CONCENTRATE, "cluster_sum", first_columns),
        "Wrong: concentrated: ",
        0,
    ),
    "groups keep their number": (lambda m: m.setitem(attributes.ADAPT, _ConvNd, lambda *_: None), "RewriteError: ", 16),
    "a second call differs": (spoilt("second call"), "Wrong: narrow, second call: ", 0),
    "one sample differs": (spoilt("batch of 1"), "Wrong: narrow, batch of 1: ", 0),
    "training differs": (spoilt("training"), "Wrong: narrow, training: ", 0),
}


def first_operand(call):
    return [call.axes(call.args[0]), *((None,) * out.dim() for out in call.out[1:])]


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_broken_is_seen(name, monkeypatch):
    break_it, said, seed = FAULTS[name]
    assert fault(seed) == "nothing"
    break_it(monkeypatch)
    assert fault(seed).startswith(said)


def found(kind, words="", seeds=range(60), most=4):
    """Tell whether the search for wider networks than need be says this of the network of some seed."""
    for seed in seeds:
        drawn = made(seed, most)
        model, inputs = drawn.network.double(), drawn.inputs(BATCH, seed)
        if any(words in said for said in getattr(precision(fxprune.couple(model, inputs), inputs, seed), kind)):
            return True
    return False


def cautious(rule):
    def broken(call):
        axes = rule(call)
        call.freeze("out of caution", *axes)
        return axes

    return broken


def eager(rule):
    """All activations of one width are one."""
    met = {}

    def broken(call):
        axes = rule(call)
        for ids in axes:
            if ids is not None:
                call.unify(met.setdefault((id(call.channels), len(ids)), ids), ids)
        return axes

    return broken


@pytest.mark.parametrize("kind", ["gaps", "missed"])
def test_a_rule_that_freezes_too_much_is_seen(kind, monkeypatch):
    rule_of("convolution", cautious)(monkeypatch)
    assert found(kind, "out of caution")


def test_a_rule_that_couples_too_much_is_seen(monkeypatch):
    rule_of("convolution", eager)(monkeypatch)
    assert found("too_much", seeds=(41,))
