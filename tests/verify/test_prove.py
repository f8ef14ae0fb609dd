"""The oracles are tested too: what is broken on purpose is seen, by the right oracle, and the culprit is named."""

from __future__ import annotations

import copy
import dataclasses
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples import SAMPLES
from torch.nn.modules.conv import _ConvNd

import fxprune
from fxprune.analysis.call import Call
from fxprune.analysis.rules import RULES, convolution, movement, normalisation
from fxprune.analysis.rules.registry import Entry
from fxprune.errors import NothingToPruneError
from fxprune.passes.rewrite import calls as rewrite_calls
from fxprune.passes.rewrite import layers as attributes
from fxprune.passes.rewrite.indexing import sliced
from fxprune.passes.verify.prove import scattered

ATEN = torch.ops.aten
A, B, Q, V = "a.weight", "b.weight", "q.weight", "v.weight"
FUSED = (F.scaled_dot_product_attention,)


def rule_of(operators, rule, **kind):
    """Another rule for some operators."""

    def broken(monkeypatch):
        for op in operators:
            old = RULES.get(op)
            new = dataclasses.replace(old, rule=rule) if old else Entry(rule, **kind)
            monkeypatch.setitem(RULES, op, new)

    return broken


def method_of(owner, name, new):
    return lambda monkeypatch: monkeypatch.setattr(owner, name, new)


def case_of(targets, case):
    """Another case of the rewrite."""

    def broken(monkeypatch):
        for target in targets:
            monkeypatch.setitem(rewrite_calls.CASES, target, case)

    return broken


def first_operand(call):
    return call.axes(call.args[0])


def first_row(call, rows, why):
    return rows[0]


def nothing(*_):
    return None


def groups_stay(monkeypatch):
    monkeypatch.setitem(attributes.ADAPT, _ConvNd, nothing)


def untied_norm(call):
    return [call.axes(call.args[0]), *((None,) * out.dim() for out in call.out[1:])]


def swapped_convolution(call):
    x, weight = call.args[:2]
    if weight.shape[0] != weight.shape[1]:
        return convolution.convolution(call)
    rows = call.axes(weight)[1]
    call.read(call.unify(call.axes(weight)[0], call.axes(x)[1]), of=call.axes(x)[1])
    call.tie(rows)
    return (None, call.unify(rows, call.axes(call.args[2])[0]), None, None)


def first_half_only(call):
    pieces = movement.split(call)
    return [pieces[0]] * len(pieces)


def shifted_slice(site):
    made = sliced(site)
    if made is None or site.node.args[0].name != "a":
        return made
    start, stop, _ = operator.attrgetter("start", "stop", "step")(made.args[1][1])
    made.args = (made.args[0], (slice(None), slice(start - 1, stop - 1)))
    return made


ADDS = (ATEN.add.Tensor,)
CONVOLUTION = (ATEN.convolution.default,)
SPLIT = (ATEN.split.Tensor,)
BATCH_NORM = [op for op, entry in RULES.items() if entry.rule is normalisation.batch_norm]
ANALYSIS, REWRITE = "concentrate", "narrow"

# What is broken: a sample, how, which oracle fails, the culprit's group, the node where it shows.
BROKEN = {
    "a sum does not unite": ("residual", rule_of(ADDS, first_operand), ANALYSIS, A, "b ("),
    "a norm is not tied": ("batch norm", rule_of(BATCH_NORM, untied_norm), ANALYSIS, A, "b ("),
    "weight axes are swapped": ("residual", rule_of(CONVOLUTION, swapped_convolution), ANALYSIS, A, "c ("),
    "halves are one half": ("split and turned round", rule_of(SPLIT, first_half_only), ANALYSIS, A, "b ("),
    "columns are taken for rows": ("relu", method_of(Call, "read", lambda s, ids, of: s.tie(ids)), REWRITE, A, "b ("),
    "heads are not bundled": (
        "attention with heads by view",
        method_of(Call, "unify_rows", first_row),
        ANALYSIS,
        V,
        "",
    ),
    "an average is not balanced": ("layer norm", method_of(Call, "balance", nothing), REWRITE, A, "n ("),
    "a product is not multiplied": ("attention", case_of([operator.matmul], nothing), REWRITE, Q, "matmul"),
    "a scale follows the width": ("fused attention by keyword", case_of(FUSED, nothing), REWRITE, Q, "scaled_dot"),
    "a slice is shifted": ("slice", case_of([operator.getitem], shifted_slice), REWRITE, A, "getitem"),
    "groups keep their number": ("depthwise", groups_stay, REWRITE, A, "node `d`"),
    "a size stays": ("leading sizes kept", case_of(["reshape"], nothing), REWRITE, A, "node `reshape`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_seen_and_named(name, monkeypatch):
    of, break_it, oracle, group, node = BROKEN[name]
    sample = SAMPLES[of]
    assert fxprune.prove(sample.net, sample.inputs).passed
    break_it(monkeypatch)
    proof = fxprune.prove(sample.net, sample.inputs)
    assert not proof.passed, proof
    assert proof.concentrate.passed == (oracle == REWRITE), proof
    assert proof.narrow is None or not proof.narrow.passed, proof
    assert any(group in culprit and node in where for culprit, where in zip(proof.culprits, proof.nodes)), proof
    assert "NOT proved" in str(proof) and "culprit: group `" in str(proof) and "FAILS" in str(proof)


def test_a_wrong_result_differs_by_far_more_than_rounding(monkeypatch):
    sample = SAMPLES["residual"]
    assert fxprune.prove(sample.net, sample.inputs).narrow.max_rel_error < 1e-14
    rule_of(ADDS, first_operand)(monkeypatch)
    assert fxprune.prove(sample.net, sample.inputs).concentrate.max_rel_error > 1e-3


def test_a_proof_prints_its_verdict():
    sample = SAMPLES["residual"]
    lines = str(fxprune.prove(sample.net, sample.inputs)).splitlines()
    assert [line.split()[-1] for line in lines[2:4]] == ["holds", "holds"]
    assert lines[-1] == "proved"
    assert "2 groups, 14 channels merged into 7; merging moves the output by" in lines[-2]


def test_a_proof_uses_random_weights_or_those_given():
    sample = SAMPLES["batch norm"]
    with torch.no_grad():
        sample.net.a.weight.zero_()
        sample.net.a.bias.zero_()
    try:
        assert fxprune.prove(sample.net, sample.inputs).change > 1e-3
        assert fxprune.prove(sample.net, sample.inputs, weights="given").passed
        assert not sample.net.a.weight.any()
    finally:
        torch.nn.init.normal_(sample.net.a.weight)


def test_seed_and_share_decide_the_clusters():
    sample = SAMPLES["residual"]
    first, again, other = (fxprune.prove(sample.net, sample.inputs, seed=seed).plan for seed in (0, 0, 1))
    assert first == again and first != other
    assert fxprune.prove(sample.net, sample.inputs, keep=0.25).plan.widths == {A: (8, 2), B: (6, 2)}


def test_scattered_clusters_are_uneven_and_out_of_order_unless_balanced():
    coupling = fxprune.couple(SAMPLES["group norm of one group"].net, SAMPLES["group norm of one group"].inputs)
    counts = {name: set() for name in (A, B)}
    for seed in range(8):
        for name, cluster in scattered(coupling, keep=0.5, seed=seed).clusters.items():
            counts[name] |= set(np.bincount(cluster).tolist())
            assert len(np.unique(cluster)) == len(cluster) // 2
    assert counts[A] == {2} and len(counts[B]) > 1


def test_nothing_to_merge_is_an_error():
    with pytest.raises(NothingToPruneError, match="no two channels"):
        fxprune.prove(torch.nn.Linear(3, 4), torch.zeros(2, 3))


def test_the_example_may_be_on_the_meta_device_and_of_one_image():
    sample = SAMPLES["residual"]
    assert fxprune.prove(sample.net, torch.empty(1, 3, 8, 8, device="meta")).passed


def test_the_network_is_analysed_once(monkeypatch):
    couple, calls = fxprune.couple, []
    counted = lambda *args, **kwargs: calls.append(args) or couple(*args, **kwargs)  # noqa: E731
    monkeypatch.setitem(scattered.__globals__, "couple", counted)  # of the module, whose name the function has
    monkeypatch.setattr("fxprune.analysis.couple", counted)
    net, inputs = SAMPLES["linear on the last axis"].net, SAMPLES["linear on the last axis"].inputs
    assert fxprune.prove(net, inputs).passed
    assert len(calls) == 1


def test_copies_of_a_narrow_network_share_its_plan():
    net, inputs = SAMPLES["linear on the last axis"].net, SAMPLES["linear on the last axis"].inputs
    plan = fxprune.plan(fxprune.couple(net, inputs), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
    assert copy.deepcopy(narrow).meta["plan"] is narrow.meta["plan"]
