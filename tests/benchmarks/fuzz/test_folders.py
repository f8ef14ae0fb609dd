"""Some of the attacks of `make fuzz`, and that a reader without its checks would be found."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
from dataclasses import replace
from random import Random

import pytest

from benchmarks.fuzz import __main__ as fuzz_command
from benchmarks.fuzz import folders as fuzz_folders
from benchmarks.fuzz import networks as fuzz_networks
from benchmarks.fuzz import timm as fuzz_timm
from benchmarks.fuzz import views as fuzz_views
from benchmarks.fuzz.damage import sign
from benchmarks.fuzz.damage_graph import CLUSTERS, GRAPH
from benchmarks.fuzz.damage_json import JSON, _paths
from benchmarks.fuzz.readers import judge, numbers
from benchmarks.fuzz.subjects import make_subjects
from fxprune.errors import CheckpointError
from fxprune.models_zoo import registry
from fxprune.passes.serialization.write import OPS
from fxprune.passes.store.layout import METRICS
from fxprune.passes.store.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "OWN", registry.OWN)  # puts it back
        made = make_subjects(tmp_path_factory.mktemp("fuzz"))
        yield [(subject, numbers(subject, subject.folder)) for subject in made]


def attacked(subjects, which):
    return [fuzz_folders.attack(number, 0, subjects) for number in which]


@pytest.mark.parametrize(("signed", "count"), [(False, 40), (True, 8)])
def test_nothing_gets_in_and_nothing_brings_the_reader_down(subjects, signed, count):
    lines = attacked(subjects, range(int(signed), 2 * count, 2))
    bad = [line for line in lines if line["outcome"] in ("other", "raw")]
    assert not bad
    outcomes = collections.Counter(line["outcome"] for line in lines)
    assert outcomes["refused"] + outcomes["found"] > count / 3
    assert {line["of"] for line in lines} == {"one", "rich one"}


def test_a_manifest_that_is_not_held_to_its_word_is_found(subjects, monkeypatch):
    def nudged(folder, *_, signed):
        text = (folder / METRICS).read_text()
        (folder / METRICS).write_text(text.replace('"loss": ', '"loss": 1'))
        return "nudged", METRICS, "loss"

    monkeypatch.setattr(fuzz_folders, "damaged", nudged)
    assert attacked(subjects[:1], [0])[0]["outcome"] == "refused"
    monkeypatch.setattr(Manifest, "check", lambda *_: None)
    assert attacked(subjects[:1], [0])[0]["outcome"] == "other"


def test_what_was_done_is_not_done_again_and_a_process_that_dies_is_told(subjects, tmp_path, monkeypatch):
    target = fuzz_folders.FuzzTarget(lambda place: [subject for subject, _ in subjects], lambda *_: {})

    def attack(number, seed, *_):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": number, "seed": seed, "signed": bool(number % 2), "outcome": "same", "says": ""}

    monkeypatch.setattr(fuzz_folders, "attack", attack)
    lines = fuzz_folders.run(4, 0, tmp_path / "lines.jsonl", target)
    assert [line["outcome"] for line in lines] == ["same", "same", "raw", "same"]
    assert "the process ended with -9" in lines[2]["says"]
    assert fuzz_folders.run(4, 0, tmp_path / "lines.jsonl", target) == lines
    assert "| **all** | 0 | 0 | 1 | 0 | 0 | 1 |" in fuzz_folders.section(lines, 0, "folders", "of one")


def test_outcomes(subjects):
    whole = subjects[0][1]
    error, other = CheckpointError("no"), {**whole, "report": "other"}
    assert judge(whole, whole, signed=False)[0] == "same"
    assert judge(dict.fromkeys(whole, error), whole, signed=False)[0] == "refused"
    assert judge({**whole, "verify": "a\nb: FAILS"}, whole, signed=True) == ("found", "b: FAILS")
    assert judge(other, whole, signed=True)[0] == "recorded"
    assert judge(other, whole, signed=False)[0] == "other"
    assert judge({**other, "verify": error}, whole, signed=False)[0] == "other"
    load = whole["load"]
    nudged = replace(load, outputs={name: x.nextafter(x + 1) for name, x in load.outputs.items()})
    assert judge({**whole, "load": nudged}, whole, signed=True)[0] == "other"
    assert judge({**whole, "load": nudged}, whole, signed=True, determined=False)[0] == "recorded"
    assert judge({**whole, "load": nudged}, whole, signed=False, determined=False)[0] == "other"
    assert judge({**whole, "load": replace(load, notes="")}, whole, signed=True)[0] == "recorded"


def test_every_field_of_a_saved_network_is_damaged(subjects):
    folder = subjects[1][0].folder
    network, graph = (json.loads((folder / name).read_text()) for name in ("network.json", "graph.json"))
    assert network["factors"] and network["earlier"] and network["integers_below"] > 1
    words = {word for node in graph["nodes"] for word in (node["op"], node["target"])}
    assert {*OPS.values(), "fxprune.guard_equal", "fxprune.enter", "fxprune.leave"} <= words | {"output"}
    assert any("same_as" in role for role in graph["tensors"].values())
    places = _paths(graph)
    assert all(("nodes", number, "target") in places for number in range(len(graph["nodes"])))
    assert ("layers", "mixer", "settings", "padding_mode") in places


def test_a_pipe_is_signed_without_reading_it(subjects, tmp_path):
    folder = shutil.copytree(subjects[1][0].folder, tmp_path / "out")
    for name in ("plan.json", "network.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    sign(folder)
    assert {"plan.json", "network.json"}.isdisjoint(read_manifest(folder).files)


@pytest.mark.parametrize("kind", ["moved", "exchanged"])
def test_well_typed_damage_changes_the_document(tmp_path, kind):
    path, value = tmp_path / "a.json", {"nodes": [{"op": "call", "args": [1, 2]}, {"op": "layer", "args": []}]}
    found = set()
    for seed in range(20):
        path.write_text(json.dumps(value))
        JSON[kind](path, Random(seed))
        found.add(path.read_text())
        assert json.loads(path.read_text()).keys() == {"nodes"}
    assert len(found) > 1


def test_graphs_and_clusters_are_damaged_on_purpose(subjects, tmp_path):
    for name, damages in (("graph.json", GRAPH), ("plan.json", CLUSTERS)):
        before = json.loads((subjects[1][0].folder / name).read_text())
        for damage in damages.values():
            found = []
            for seed in range(5):
                shutil.copy(subjects[1][0].folder / name, tmp_path / name)
                damage(tmp_path / name, Random(seed))
                found.append(json.loads((tmp_path / name).read_text()))
            assert any(after != before for after in found) and all(after.keys() == before.keys() for after in found)


def test_the_command_runs_each_kind(monkeypatch):
    ran = []
    for module in (fuzz_folders, fuzz_timm, fuzz_networks, fuzz_views):
        monkeypatch.setattr(module, "main", lambda rest, name=module.__name__: ran.append((name, rest)) or 0)
    assert fuzz_command.main(["folders", "--count", "1"]) == 0
    assert fuzz_command.main([]) == 0
    folders, *others = (module.__name__ for module in (fuzz_folders, fuzz_timm, fuzz_networks, fuzz_views))
    assert ran == [(folders, ["--count", "1"]), (folders, []), *((name, []) for name in others)]
