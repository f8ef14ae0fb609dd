"""Files that somebody wrote on purpose, with a manifest that vouches for them: one clear error, nothing is built."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.command_line import Small
from helpers.jobs.damage import list_again
from safetensors.torch import save_file

import fxprune
from fxprune.common.documents import parse_json
from fxprune.errors import CheckpointError, PlanError
from fxprune.models_zoo import registry
from fxprune.models_zoo.spec import ModelSpec, build_within
from fxprune.passes.store import build_wide, load, read_tensors, save
from fxprune.plans import digest


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "OWN", {**registry.OWN, "small": Small})
    spec = ModelSpec("small", {"num_classes": 10, "in_chans": 1})
    model = spec.build()
    plan = fxprune.plan(fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta")), keep=0.5)
    save(fxprune.narrow(fxprune.snap(model, plan), plan), tmp_path / "out", model=spec)
    return tmp_path / "out"


def put(file, *path, value):
    """Put a value at a place of a JSON file."""

    def change(folder):
        content = json.loads((folder / file).read_text())
        inside = content
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
        if "sha256" in content:
            content["sha256"] = digest(content)
        (folder / file).write_text(json.dumps(content))

    return change


def argument(name, value):
    return put("network.json", "model", "kwargs", name, value=value)


def nest(file):
    return lambda folder: (folder / file).write_text("[" * 100_000 + "]" * 100_000)


def retype(kind):
    def change(folder):
        path = folder / "weights.safetensors"
        save_file({name: x.to(kind) for name, x in read_tensors(path).items()}, path)

    return change


def read(folder):
    """Load the network, and then the wide one that the folder names, as `verify` does."""
    load(folder, model=build_wide(folder, load(folder)))


GROUP = "first.weight"
CLUSTERS = f"the clusters of `{GROUP}` are no list"
HOSTILE = {
    "a deep nest": (nest("plan.json"), "plan.json is not a whole plan file: it is nested deeper than 64 levels"),
    "a deep nest of a network": (nest("network.json"), "nested deeper than 64 levels"),
    "a cluster of 10^12": (put("plan.json", "clusters", GROUP, 0, value=10**12), CLUSTERS),
    "a cluster below 0": (put("plan.json", "clusters", GROUP, 0, value=-1), CLUSTERS),
    "a cluster of text": (put("plan.json", "clusters", GROUP, value="x"), CLUSTERS),
    "more clusters than the weights have rows": (
        put("plan.json", "clusters", GROUP, value=[*range(8)]),
        rf"the plan of another network: it does not lead to `{GROUP}` \[4, 1",
    ),
    "fewer clusters than the weights have rows": (
        put("plan.json", "clusters", GROUP, value=[0] * 8),
        rf"the plan of another network: it does not lead to `{GROUP}` \[4, 1",
    ),
    "a switch as a seed": (put("plan.json", "seed", value=True), "`seed` is True; it must be int"),
    "an endless input": (put("plan.json", "inputs", value=[["float32", [1 << 40, 1 << 40]]]), "plan.json is damaged"),
    "a large input": (put("plan.json", "inputs", value=[["float32", [2, 1, 60_000, 60_000]]]), "plan.json is damaged"),
    "an input of a quantised type": (
        put("plan.json", "inputs", value=[["qint8", [2, 1, 8, 8]]]),
        "plan.json is damaged",
    ),
    "a shape of text": (put("plan.json", "tensors", GROUP, value="x"), f"shape of `{GROUP}` is no list of sizes"),
    "a network that is too large for its weights": (
        put("plan.json", "tensors", GROUP, value=[1 << 40, 1, 3, 3]),
        "is for a network of .* numbers, and .*weights.safetensors holds",
    ),
    "a type that is a function": (put("network.json", "model", "dtype", value="load"), "`model` is"),
    "a type that is hidden": (put("network.json", "model", "dtype", value="__class__"), "`model` is"),
    "a quantised type": (put("network.json", "model", "dtype", value="qint8"), "`model` is"),
    "a file": (argument("checkpoint_path", "/etc/passwd"), "`checkpoint_path` is no argument"),
    "layers": (argument("layers", [10**6] * 4), "`layers` is no argument"),
    "channels": (argument("channels", [10**6] * 4), "`channels` is no argument"),
    "a width": (argument("width", 10**6), "the argument `width` must be a number up to 64"),
    "classes of text": (argument("num_classes", "10"), "the argument `num_classes` must be a number"),
    "many classes": (argument("num_classes", 1_000_000), "not saved from|another wide network"),
    "no classes": (argument("num_classes", -1), "the argument `num_classes` must be a number"),
    "a giant": (put("network.json", "model", "name", value="vit_giant_patch14_224"), "has more than .* numbers"),
    "a long name": (put("network.json", "model", "name", value="x" * 10_000), "`model` is"),
    "another field": (put("network.json", "model", "code", value="1"), "`model` is"),
    "weights of another type": (retype(torch.float16), r"`first.weight` is float16 \[.*\] in the weights, and float32"),
    "integers": (retype(torch.int32), r"`first.weight` is int32 \[.*\] in the weights, and float32"),
    "8 bits": (retype(torch.float8_e5m2), "holds torch.float8_e5m2"),
    "text that moves the cursor": (
        put("network.json", "model", "name", value="\x1b[2J"),
        "text with control characters",
    ),
    "half a letter": (put("network.json", "model", "name", value="\ud800"), "text that cannot be shown"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused_in_one_sentence(saved, case):
    change, says = HOSTILE[case]
    change(saved)
    list_again(saved)
    with pytest.raises(CheckpointError, match=says) as caught:
        read(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "case"), [("network.json", "giant"), ("weights.safetensors", "types")])
def test_what_agrees_with_itself_is_held_against_the_network(saved, file, case):
    if case == "types":  # also graph.json says that these are integers
        retype(torch.int32)(saved)
        for name in read_tensors(saved / file):
            put("graph.json", "tensors", name, "dtype", value="int32")(saved)
    else:
        argument("in_chans", 4096)(saved)
    list_again(saved)
    with pytest.raises(
        CheckpointError, match=r"cannot be trained, since it is int32|not saved from|another wide network"
    ):
        read(saved)


def test_nothing_is_built_that_is_larger_than_the_plan():
    shapes = {"x": [1000]}
    with pytest.raises(CheckpointError, match="more than 16,783,216 numbers, and the plan is for a network of 1,000"):
        build_within(ModelSpec("resnet50", {"num_classes": 10}), shapes, "network.json")
    assert build_within(ModelSpec("resnet20", {"num_classes": 10}), shapes, "network.json") is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("NaN", "NaN, which is no number"),
        ("[1e999]", "1e999, which is no finite number"),
        ("1" * 30, "more than 64 bits"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper than 64"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ("", "Expecting value"),
        ('"\\ud800"', "cannot be shown"),
        ('{"\\u0007": 1}', "control characters"),
    ],
)
def test_json_that_is_none_of_ours(text, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text)


def test_json_that_may_be_ours():
    value = {"a": [1, -1.5, None, True, "ä\n"], "b": {"c": 2**62}}
    assert parse_json(json.dumps(value)) == value


def test_a_cluster_number_is_held_against_the_width_before_it_is_counted(saved):
    plan = load(saved, model=Small(10)).meta["plan"]
    clusters = {name: cluster.copy() for name, cluster in plan.clusters.items()}
    clusters[GROUP][0] = 10**12
    with pytest.raises(PlanError, match="not numbered from 0 without gaps"):
        fxprune.Plan(plan.coupling, clusters)
