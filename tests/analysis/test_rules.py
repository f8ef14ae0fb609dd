"""Every sample has the widths that it must have, and both oracles hold on it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.rewrites.proofs import CALLED, TARGETS, captured, narrowed, prove_all, proved
from samples import SAMPLES

import fxprune
from fxprune.analysis.rules import RULES, pointwise
from fxprune.analysis.rules.registry import rule
from fxprune.capture.decompositions import decomposition
from fxprune.passes.rewrite.calls import CASES
from fxprune.passes.verify.batches import random_batch
from fxprune.passes.verify.compare import verify
from fxprune.pytorch import call_targets
from fxprune.pytorch.precision import PromoteMixed


@pytest.mark.parametrize("name", SAMPLES)
def test_widths_and_both_oracles(name):
    sample, proof = SAMPLES[name], proved(name)
    coupling = proof.plan.coupling
    assert {group.name: group.width for group in coupling.groups.values()} == sample.widths, coupling
    assert sample.frozen in " ".join(cold.why for cold in coupling.frozen), coupling
    assert proof.passed, proof
    assert proof.change > 1e-3  # what is merged matters to the output: the proof can fail
    if sample.other is not None:
        # At another batch and another image size too.
        inputs = random_batch(sample.other, len(sample.other[0]), seed=1)
        report = verify(*narrowed(name), inputs, tolerance=1e-9, batches=())  # the second oracle
        assert report.passed, report


@pytest.mark.parametrize(
    "name", [name for name, each in SAMPLES.items() if each.frozen != "an index that the network changes"]
)
def test_its_graph_computes_the_same_bits(name):
    network, graph = captured(name)
    inputs = [torch.randn_like(x, dtype=torch.float64) if x.is_floating_point() else x for x in SAMPLES[name].inputs]
    with torch.no_grad(), PromoteMixed():
        wanted, got = network(*inputs), graph(*inputs)
    # Opened layers sum in another order than the fused kernels; capture/test_decompositions.py holds them to 1e-12.
    fused = any(decomposition(module) is not None for module in network.modules())
    for a, b in zip(torch.utils._pytree.tree_leaves(wanted), torch.utils._pytree.tree_leaves(got), strict=True):
        assert not torch.is_tensor(a) or torch.equal(a, b) or (fused and torch.allclose(a, b, rtol=1e-9, atol=1e-12))


def test_every_rule_has_a_sample():
    prove_all()
    rules = {entry.rule for entry in RULES.values()} | {pointwise.pointwise}
    assert {function.__qualname__ for function in rules - CALLED} == set()


def test_the_rewrite_has_one_case_for_every_call_that_the_analysis_relies_on():
    assert CASES.keys() == call_targets.REWRITABLE


def test_every_call_that_is_rewritten_has_a_sample():
    prove_all()
    assert {str(target) for target in call_targets.REWRITABLE - TARGETS} == set()


def test_two_rules_for_one_operator_are_refused():
    with pytest.raises(ValueError, match=r"two rules for aten.convolution.default"):
        rule("convolution")(pointwise.pointwise)


def test_names_that_this_pytorch_does_not_have_are_passed_over():
    before = dict(RULES)
    for function in (pointwise.pointwise, lambda call: (None,)):
        rule("operator_of_another_version")(function)
    assert before == RULES


def test_a_rule_that_breaks_its_promise_is_named(monkeypatch):
    entry = RULES[torch.ops.aten.permute.default]
    sample = SAMPLES["linear on the last axis"]
    for answer, words in ((lambda call: (None,), "labelled axes of length"), (lambda call: 1 / 0, "failed at node")):
        monkeypatch.setitem(RULES, torch.ops.aten.permute.default, dataclasses.replace(entry, rule=answer))
        with pytest.raises(fxprune.errors.AnalysisError, match=f"the rule for aten.permute.default {words}"):
            fxprune.couple(sample.net, sample.inputs)


class Halved(torch.nn.Module):
    def __init__(self, halve):
        super().__init__()
        self.halve = halve
        self.a, self.b = torch.nn.Linear(3, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.halve(self.a(x)))


def _register_halve(operator):
    torch.library.custom_op(operator, mutates_args=(), schema="(Tensor x) -> Tensor")(lambda x: x / 2)
    torch.library.register_fake(operator, torch.empty_like)


@pytest.mark.parametrize(
    ("name", "before"), [("half", True), ("half_by_default.default", True), ("halve", False), ("halves.default", False)]
)
def test_a_rule_may_come_before_or_after_the_library_that_registers_its_operator(name, before, monkeypatch):
    monkeypatch.setattr("fxprune.analysis.rules.registry.RULES", dict(RULES))
    packet = name.partition(".")[0]
    if not before:
        _register_halve(f"fxprune_tests::{packet}")
    rule(f"fxprune_tests::{name}")(pointwise.pointwise)
    with pytest.raises(ValueError, match="two rules for fxprune_tests"):
        rule(f"fxprune_tests::{name}")(lambda call: (None,))
    if before:
        _register_halve(f"fxprune_tests::{packet}")
    proof = fxprune.prove(Halved(getattr(torch.ops.fxprune_tests, packet)), torch.rand(5, 3))
    assert proof.passed and proof.plan.widths == {"a.weight": (8, 4)}, proof
