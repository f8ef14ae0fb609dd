"""A plan is a value: checked when made, equal when it cuts alike, the same after a round trip through a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from samples import SAMPLES, Net, conv, linear

import fxprune
from fxprune.errors import PlanError
from fxprune.passes.planning import load_plan
from fxprune.plan_file import plan_for
from fxprune.plans import Plan

A, B = "a.weight", "b.weight"


def chain(width=8):
    return Net(
        lambda s, x: s.head(s.b(s.a(x).relu()).mean((2, 3))), a=conv(3, width), b=conv(width, 6), head=linear(6, 4)
    )


IMAGES = torch.zeros(2, 3, 8, 8)
MODEL = chain()
COUPLING = fxprune.couple(MODEL, IMAGES)
HALVES = {A: np.array([0, 1, 0, 2, 1, 3, 0, 0]), B: np.array([0, 0, 1, 1, 2, 2])}


def plan(**clusters):
    return Plan(COUPLING, {f"{name}.weight": np.array(labels) for name, labels in clusters.items()})


def test_widths_kept_sizes_and_representatives():
    given = Plan(COUPLING, HALVES)
    assert given.widths == {A: (8, 4), B: (6, 3)}
    assert given.representative.tolist() == [0, 1, 0, 3, 1, 5, 0, 0, 8, 8, 10, 10, 12, 12]
    assert given.kept.nonzero()[0].tolist() == [0, 1, 3, 5, 8, 10, 12, 14]  # the last entry answers for code -1
    assert given.sizes.tolist() == [4, 2, 4, 1, 2, 1, 4, 4, 2, 2, 2, 2, 2, 2, 1]


def test_a_group_that_is_missing_keeps_its_width():
    given = plan(b=HALVES[B])
    assert given.widths == {A: (8, 8), B: (6, 3)}
    assert {partition.parameter for partition in given.partitions()} == {B, "b.bias", "head.weight"}


def test_partitions_cut_every_axis_of_a_group():
    cuts = {(cut.parameter, cut.dim): cut for cut in Plan(COUPLING, HALVES).partitions()}
    assert {key: cut.tied for key, cut in cuts.items()} == {
        (A, 0): True, ("a.bias", 0): True, (B, 1): False, (B, 0): True, ("b.bias", 0): True, ("head.weight", 1): False,
    }  # fmt: skip
    assert cuts[A, 0].cluster.tolist() == [0, 1, 0, 2, 1, 3, 0, 0]
    assert cuts[A, 0].kept.tolist() == [0, 1, 3, 5]


def test_a_channel_that_occurs_several_times_is_cut_occurrence_by_occurrence():
    sample = SAMPLES["channel shuffle by view"]
    coupling = fxprune.couple(sample.net, sample.inputs)
    cut = next(iter(Plan(coupling, {A: np.array([0, 1, 1, 0])}).partitions()))
    assert cut.kept.tolist() == [0, 1, 4, 5]
    assert cut.cluster.tolist() == [0, 1, 1, 0, 2, 3, 3, 2]


def test_two_groups_of_one_axis_are_cut_together():
    sample = SAMPLES["strided slice"]
    coupling = fxprune.couple(sample.net, sample.inputs)
    cuts = Plan(coupling, {A: np.array([0, 0, 1, 2]), f"{A}#2": np.array([0, 1, 1, 1])}).partitions()
    cut = next(cut for cut in cuts if cut.parameter == A)
    assert cut.kept.tolist() == [0, 1, 3, 4, 6]
    assert cut.cluster.tolist() == [0, 1, 0, 2, 3, 2, 4, 2]


BAD = {
    "unknown group": ({"c": [0, 0]}, "names a group `c.weight` that this network does not have"),
    "too few channels": ({"a": [0, 1, 1]}, r"`a.weight` has 8 channels; the plan gives clusters for \(3,\)"),
    "a gap": ({"a": [0, 2, 0, 2, 0, 2, 0, 2]}, "not numbered from 0 without gaps"),
    "no whole numbers": ({"a": [0.5] * 8}, "the clusters of group `a.weight` are no array of whole numbers"),
    "a negative number": ({"a": [0, -1, 0, 1, 0, 1, 0, 1]}, "not numbered from 0 without gaps"),
}


@pytest.mark.parametrize(("clusters", "words"), BAD.values(), ids=BAD)
def test_clusters_that_do_not_fit_are_refused(clusters, words):
    with pytest.raises(PlanError, match=words):
        plan(**clusters)


def test_groups_under_a_normalisation_need_clusters_of_one_size():
    sample = SAMPLES["group norm after cat"]
    coupling = fxprune.couple(sample.net, sample.inputs)
    even, uneven, quarters = np.arange(8) // 2, np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 0])
    assert Plan(coupling, {A: even, "c.weight": np.arange(4) // 2}).widths[A] == (8, 4)
    with pytest.raises(PlanError, match=r"`a.weight` .* needs clusters of one size; the plan has sizes 2 to 3"):
        Plan(coupling, {A: uneven, "c.weight": np.arange(4) // 2})
    for other in ({"c.weight": quarters}, {}):
        with pytest.raises(PlanError, match=r"one common size; the plan has `a.weight` of 2, `c.weight` of [14]"):
            Plan(coupling, {A: even, **other})


def test_equality_is_by_network_and_clusters():
    assert Plan(COUPLING, HALVES) == Plan(fxprune.couple(chain(), IMAGES), HALVES, method="other", seed=3)
    assert Plan(COUPLING, HALVES) != plan(b=HALVES[B])
    assert plan(b=HALVES[B]) != Plan(fxprune.couple(chain(9), IMAGES), {B: HALVES[B]})
    assert Plan(COUPLING, HALVES) != "a plan"


def test_restrict_keeps_the_named_groups():
    assert Plan(COUPLING, HALVES).restrict({B}) == plan(b=HALVES[B])


def test_on_another_instance_the_clusters_are_the_same():
    given, twin = Plan(COUPLING, HALVES, "given", 7), chain()
    assert plan_for(MODEL, given) is given
    moved = plan_for(twin, given)
    assert moved == given and moved.coupling.model() is twin and moved.seed == 7
    with pytest.raises(
        PlanError, match=r"another network: 3 of 6 tensors differ, first a.weight: \(8, 3, 1, 1\) in the plan"
    ):
        plan_for(chain(9), given)


def test_it_prints_as_a_table():
    text = str(Plan(COUPLING, HALVES))
    assert text.splitlines()[2].split() == [A, "8", "4", "no"]
    assert text.endswith("given, seed 0: 14 channels become 7")


def test_round_trip_through_a_file(tmp_path):
    given = Plan(COUPLING, HALVES, "even", 5)
    given.save(tmp_path / "plan.json")
    back = load_plan(tmp_path / "plan.json", chain())
    assert back == given and (back.method, back.seed) == ("even", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def altered(tmp_path, **changes):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**Plan(COUPLING, HALVES).to_json(), **changes}))
    return path


DAMAGED = {
    "another format": ({"format": "x"}, "is not an fxprune plan"),
    "a later version": ({"version": 99}, "has version 99; this fxprune reads version 1"),
    "no clusters": ({"clusters": None}, "damaged: `clusters` is None; it must be dict"),
    "wrong clusters": ({"clusters": {A: [0, 1]}}, r"plan.json: group `a.weight` has 8 channels"),
    "another network": (
        {"tensors": {A: [5, 3, 1, 1], "more": [1]}},
        r"plan.json was made for another network: 7 of 7 tensors differ",
    ),
}


@pytest.mark.parametrize(("changes", "words"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, changes, words):
    with pytest.raises(PlanError, match=words):
        load_plan(altered(tmp_path, **changes), MODEL)


def test_a_buffer_that_a_call_made_anew_is_blamed_not_the_plan():
    model = chain()
    model.register_buffer("grid", torch.zeros(1))
    given = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    model.grid = torch.zeros(8)
    words = r"other sizes of buffers than the model has now, .* grid: \(1,\) in the plan, \(8,\) in the model\."
    with pytest.raises(PlanError, match=words):
        fxprune.snap(model, given)


def test_a_half_written_file_and_none_at_all_are_refused(tmp_path):
    path = altered(tmp_path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(PlanError, match=r"is not a whole plan file.*Make it again"):
        load_plan(path, MODEL)
    with pytest.raises(PlanError, match=r"cannot read the plan .*nowhere.json: No such file"):
        load_plan(tmp_path / "nowhere.json", MODEL)


INSIDE = {
    "clusters that are words": {"clusters": {A: ["x"] * 8}},
    "clusters that are no list": {"clusters": {A: 3}},
    "clusters of fractions": {"clusters": {A: [0, 0.5, 1, 1, 1, 1, 1, 1]}},
    "an input of no kind": {"inputs": [["float31", [2, 3, 8, 8]]]},
    "an input without a shape": {"inputs": [["float32"]]},
    "an input of words": {"inputs": [["float32", ["a", "b"]]]},
    "no input": {"inputs": []},
    "a shape that is none": {"tensors": {A: 3}},
}


@pytest.mark.parametrize("changes", INSIDE.values(), ids=INSIDE)
def test_a_file_damaged_inside_is_refused_too(tmp_path, changes):
    with pytest.raises(fxprune.errors.InputError):
        load_plan(altered(tmp_path, **changes), MODEL)


def test_absurd_clusters_are_refused_before_they_are_hashed(tmp_path):
    with pytest.raises(PlanError, match=r"no tensor has the 100000 channels of `a\.weight`"):
        load_plan(altered(tmp_path, clusters={A: [0] * 100_000}, sha256="0"), MODEL)


def test_whole_heads_stay_whole_on_another_instance_and_in_a_file(tmp_path):
    """Four heads of four: both ways to bundle give a group of four, of other channels."""

    def heads():
        return Net(
            lambda s, x: s.head(s.a(x).unflatten(-1, (4, 4)).mT.flatten(-2)), a=linear(3, 16), head=linear(16, 4)
        )

    model, twin = heads(), heads()
    plan = Plan(fxprune.couple(model, torch.zeros(2, 3), whole=True), {A: np.array([0, 0, 1, 1])})
    plan.save(tmp_path / "plan.json")
    rows = {cut.parameter: cut.cluster.tolist() for cut in plan.partitions() if cut.tied}
    for again in (plan_for(twin, plan), load_plan(tmp_path / "plan.json", twin)):
        assert {cut.parameter: cut.cluster.tolist() for cut in again.partitions() if cut.tied} == rows


def test_a_plan_file_knows_what_it_says(tmp_path):
    path = tmp_path / "plan.json"
    Plan(COUPLING, HALVES).save(path)
    value = json.loads(path.read_text())
    value["clusters"][A] = value["clusters"][A][::-1]
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError, match="is not as it was written: its `sha256`"):
        load_plan(path, MODEL)
    value.pop("sha256")  # edited by hand
    path.write_text(json.dumps(value))
    assert load_plan(path, MODEL).clusters[A].tolist() == value["clusters"][A]
