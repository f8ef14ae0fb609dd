"""The coverage run survives any network, redoes nothing, and reports what it found; small classes pass it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from benchmarks import coverage, coverage_check
from benchmarks.coverage_check import Task, check, examine
from benchmarks.coverage_classes import CLASSES, EntryPoint, describe, entry_points, read, smallest, write
from benchmarks.coverage_journal import ROOT, Journal, digest, sources
from benchmarks.coverage_lines import lines, read_lines
from benchmarks.coverage_network import small_form, with_constants
from benchmarks.coverage_process import Limits, run_each
from benchmarks.coverage_reasons import reasons, reasons_of
from benchmarks.coverage_report import page
from benchmarks.coverage_result import DEPTHS, Cold, Result, result_from
from benchmarks.coverage_torchvision import torchvision_form, torchvision_points
from fxprune.files import write_text

EXAMPLE = (torch.empty(2, 3, 8, 8, device="meta"),)


def good_net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()


class Odd(nn.Module):
    def forward(self, x):
        raise ValueError("this network does not run")


# What a child process does for each of the networks below.
def fake_work(name, tell):
    tell(stage="build", parameters=7)
    if name == "good":
        examine(good_net(), EXAMPLE, tell, onnx=False)
    elif name == "raises":
        examine(Odd(), EXAMPLE, tell, onnx=False)
    elif name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "leaves":
        os._exit(3)
    elif name == "hangs":
        time.sleep(1000)
    elif name == "hungry":
        torch.empty(2**31)  # 8 GiB, never touched
    elif name == "prints":
        print("a line from a library")


LIMITS = Limits(seconds=20.0, memory=4 * 2**30)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    names = ("good", "raises", "dies", "leaves", "hungry", "prints")
    found = dict(run_each(fake_work, [(name, logs / name) for name in names], LIMITS, jobs=2))
    assert sorted(found) == sorted(names)
    return found, logs


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("good", None),
        ("raises", "CaptureError: cannot trace Odd: ValueError in module `Odd` at .*this network does not run"),
        ("dies", "the process was killed by SIGKILL"),
        ("leaves", "the process ended with exit code 3"),
        ("hungry", r"RuntimeError: .*allocate memory.* \(the limit is 4 GiB\)"),
        ("prints", None),
    ],
)
def test_a_process_tells_what_it_knew_and_how_it_ended(name, error, outcomes):
    facts = outcomes[0][name]
    assert facts["parameters"] == 7 and facts["seconds"] > 0
    assert "error" not in facts if error is None else re.match(error, facts["error"], re.DOTALL), facts


def test_what_a_process_prints_and_raises_goes_into_its_log(outcomes):
    _, logs = outcomes
    assert (logs / "prints").read_text() == "a line from a library\n"
    assert "this network does not run" in (logs / "raises").read_text()
    assert not (logs / "good").read_text()


def test_a_process_that_takes_too_long_is_ended_and_the_others_go_on(tmp_path):
    tasks = [(name, tmp_path / name) for name in ("hangs", "prints")]
    found = dict(run_each(fake_work, tasks, dataclasses.replace(LIMITS, seconds=8.0), jobs=2))
    assert found["hangs"] == {
        "stage": "build",
        "parameters": 7,
        "error": "took longer than the limit of 8 s",
        "seconds": found["hangs"]["seconds"],
    }
    assert "error" not in found["prints"]


def examined(net, **kwargs):
    facts = {}
    examine(net, EXAMPLE, lambda **told: facts.update(told), **kwargs)
    return facts


def test_a_good_network_is_captured_merged_and_exported():
    facts = examined(good_net(), onnx=True)
    assert "error" not in facts
    assert (facts["capture"], facts["groups"], facts["stage"]) == ("plain", 2, "onnx")
    assert facts["error64"] < 1e-12 and facts["error_onnx"] < 1e-5
    # Halves: 3-8-4 channels become 3-4-2, and the last layer reads 32 of 64 columns.
    assert facts["parameters_after"] == (27 + 1) * 4 + (36 + 1) * 2 + (32 + 1) * 5
    assert facts["macs"] == 36 * 27 * 8 + 16 * 72 * 4 + 64 * 5
    assert facts["macs_after"] == 36 * 27 * 4 + 16 * 36 * 2 + 32 * 5


def test_a_network_without_groups_keeps_its_reasons():
    facts = examined(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), onnx=True)
    assert facts["groups"] == 0 and "error" not in facts
    assert result_from({"model": "m", "depth": "onnx", "digest": "", **facts}).verdict == "nothing merges"


@pytest.mark.parametrize(("broken", "error"), [("concentrate", "AnalysisError"), ("narrow", "RewriteError")])
def test_a_failed_oracle_is_told(broken, error, monkeypatch):
    def wrong(model, plan):
        other = fxprune.passes.merge.concentrate(model, plan)
        nn.init.ones_(other[0].bias)
        return other

    monkeypatch.setattr(coverage_check if broken == "concentrate" else fxprune, broken, wrong)
    facts = examined(good_net(), onnx=True)
    assert facts["error"].startswith(f"{error}: output at a batch of 2 differs by")
    assert facts["stage"] == "culprits" and facts["culprits"] == [] and "error_onnx" not in facts


@pytest.mark.parametrize(("wide_too", "message"), [(False, "no."), (True, "no. The wide network fails alike.")])
def test_a_failed_export_says_whether_the_wide_network_fails_alike(wide_too, message, monkeypatch):
    def refuse(net, *_, **__):
        if isinstance(net, torch.fx.GraphModule) or wide_too:
            raise fxprune.errors.ExportError("no.")

    monkeypatch.setattr(fxprune, "export_onnx", refuse)
    with pytest.raises(fxprune.errors.ExportError) as caught:
        examined(good_net(), onnx=True)
    assert str(caught.value) == message


def result(model, **known):
    return Result(**{"model": model, "depth": "onnx", "digest": "new", **known})


COLD = (Cold(60, "no rule for `sort`", "sort", "net.py:3"), Cold(30, "no rule for `pop`", "pop", "net.py:9"))
FULL = result(
    "one",
    parameters=100,
    image=32,
    capture="plain",
    groups=3,
    share=0.25,
    frozen=COLD,
    macs=1000,
    parameters_after=40,
    macs_after=300,
    error64=1.5e-15,
    error_onnx=2.5e-7,
    stage="onnx",
    seconds=3.4,
)
FAILED = result("two", parameters=50, error="Error: a | b\nc", stage="narrow", culprits=("g at node",))


def test_results_survive_the_journal(tmp_path):
    journal = Journal(tmp_path / "deep" / "results.jsonl")
    for each in (FULL, FAILED, dataclasses.replace(FULL, share=0.5)):
        journal.append(each)
    assert Journal(tmp_path / "deep" / "results.jsonl").newest("onnx") == journal.newest("onnx")
    assert journal.newest("onnx") == {"one": dataclasses.replace(FULL, share=0.5), "two": FAILED}
    assert len((tmp_path / "deep" / "results.jsonl").read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_counts_as_not_written(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(FULL.to_json()) + "\n" + json.dumps(FAILED.to_json())[:40])
    journal = Journal(path)
    assert journal.newest("onnx") == {"one": FULL}
    journal.append(FAILED)
    assert Journal(path).newest("onnx") == {"one": FULL, "two": FAILED}


def test_only_results_of_other_sources_are_missing_and_failures_come_first(tmp_path):
    journal = Journal(tmp_path / "results.jsonl")
    for model, known in (
        ("done", {}),
        ("old", {"digest": "old"}),
        ("failed", {"digest": "old", "error": "e"}),
        ("shallow", {"depth": "exact"}),
    ):
        journal.append(result(model, **known))
    assert journal.missing(["old", "done", "failed", "shallow", "never"], "onnx", "new") == [
        "failed",
        "shallow",
        "never",
        "old",
    ]


def test_the_digest_knows_every_source(tmp_path):
    files = [tmp_path / "core.py", tmp_path / "pass.py"]
    for path in files:
        path.write_text("a")
    seen = {digest(files, tmp_path), digest(files[:1], tmp_path)}
    files[1].write_text("b")
    seen.add(digest(files, tmp_path))
    files[1] = files[1].rename(tmp_path / "other.py")
    seen.add(digest(files, tmp_path))
    assert len(seen) == 4 and digest(files, tmp_path) in seen


def test_what_only_trains_is_no_source_of_a_check():
    found = {str(path.relative_to(ROOT)) for path in sources()}
    assert {"fxprune/walk.py", "fxprune/rules/view.py", "passes/rewrite.py", "passes/export_onnx.py"} <= found
    assert not {"passes/csgd.py", "passes/train.py", "passes/compress.py"} & found


def test_reasons_add_up_over_networks_whatever_the_names():
    other = result("three", frozen=(Cold(5, "graph output", "output", "-"), Cold(1, "no rule for `x`", "x", "o.py:1")))
    found = [(reason.why, reason.weights, reason.models, reason.dearest) for reason in reasons([FULL, other])]
    assert found == [("no rule for `...`", 91, 2, "one at net.py:3"), ("graph output", 5, 1, "three at -")]
    assert reasons_of(FULL) == "no rule for `...` (90.0%)"


POINTS = [
    EntryPoint("mod", "One", "one", 100, 64),
    EntryPoint("mod", "Two", "two", 50, 64),
    EntryPoint("m", "X", "x", 9, 8),
]


@pytest.mark.parametrize(
    ("heading", "line"),
    [
        ("The smallest network of each class", "| networks | 3 |"),
        ("The smallest network of each class", "| exact, exported | 1 |"),
        ("The smallest network of each class", "| failed | 1 |"),
        ("The smallest network of each class", "| not checked yet | 1 |"),
        ("The smallest network of each class", "| of earlier sources (†) | 1 |"),
        ("The smallest network of each class", "| prunable, median | 25.0% |"),
        ("The smallest network of each class", "| float64, largest | 1.5e-15 |"),
        ("Failed", "| two | narrow | Error: a \\| b c | g at node |"),
        ("Less than 60% prunable", "| one | 25.0% | no rule for `...` (90.0%) |"),
        ("Why weights may not merge", "| no rule for `...` | 90 | 1 | one at net.py:3 |"),
        (
            "Networks",
            "| one | mod.One | 0.00 M | 32 | plain | 3 | 25.0% | 40.0% | 30.0% | 1.5e-15 | 2.5e-07 | 3 "
            "| exact, exported | no rule for `...` (90.0%) |",
        ),
        ("Networks", "| two † | mod.Two | 0.00 M | 64 |" + "  |" * 7 + " 0 | failed |  |"),
        ("Networks", "| x | m.X | 0.00 M | 8 |" + "  |" * 8 + " not checked yet |  |"),
        ("Every entry point, analysed without weights", "| coupled | 1 |"),
    ],
)
def test_the_page_says_what_was_found(heading, line):
    found = {"one": FULL, "two": dataclasses.replace(FAILED, digest="old")}
    coupled = {"one": dataclasses.replace(FULL, depth="couple")}
    text = page(POINTS, [], {"onnx": found, "couple": coupled, "exact": {}}, "new")
    assert line in text.split(f"# {heading}\n")[1].split("\n#")[0].splitlines()
    assert "checked in float64\n" not in text


def test_networks_of_torchvision_have_a_part_of_their_own():
    vision = [EntryPoint("video.net", "net", "torchvision/net1", 100, 64)]
    found = {name: dataclasses.replace(FULL, model=name) for name in ("one", "torchvision/net1")}
    coupled = {"torchvision/net1": dataclasses.replace(found["torchvision/net1"], depth="couple")}
    text = page(POINTS, vision, {"onnx": found, "couple": coupled, "exact": {}}, "new")
    timm, _, rest = text.partition("# Coverage of torchvision\n")
    assert "| one | mod.One |" in timm and "torchvision/net1" not in timm and "without weights" not in timm
    assert "| torchvision/net1 | video.net.net |" in rest and "| networks | 1 |" in rest
    assert "torchvision" not in page(POINTS, vision, {"onnx": {"one": FULL}, "couple": {}, "exact": {}}, "new")


# What no simple way of writing cells keeps: separators inside reasons, quotes, line ends, nothing against zero.
AWKWARD = result(
    "three",
    checked="2030-01-02T03:04:05+00:00",
    parameters=0,
    share=0.1 + 0.2,
    frozen=(Cold(3, 'a; b (c) "d", `e`', "n_1", "f.py:1"), Cold(1, "é\nf", "", "-")),
    error="x; y\r\nz, 'q'",
    culprits=("g; h", "i"),
)


def test_the_lines_hold_every_result_and_read_back_without_loss(tmp_path):
    found = {"onnx": {"two": FAILED, "one": FULL, "three": AWKWARD}, "couple": {}, "exact": {"two": FAILED}}
    path = tmp_path / "coverage.csv"
    write_text(path, lines(found))
    assert read_lines(path) == [FULL, AWKWARD, FAILED, FAILED]
    with open(path, encoding="utf-8", newline="") as file:
        told = [(line["model"], line["verdict"], line["share"]) for line in csv.DictReader(file)]
    assert told[0] == ("one", "exact, exported", "0.25") and told[2] == ("two", "failed", "")
    assert read_lines(tmp_path / "missing.csv") == []


def test_the_committed_lines_are_as_they_are_written():
    found = {depth: {} for depth in DEPTHS}
    for each in read_lines(coverage.DOCS / "coverage.csv"):
        found[each.depth][each.model] = each
    assert len(found["couple"]) > 1000
    assert lines(found).encode() == (coverage.DOCS / "coverage.csv").read_bytes()


@pytest.mark.parametrize(
    ("here", "committed", "kept"),
    [
        (None, "", "committed"),
        ("", "", "here"),
        ("", "2030-01-02", "committed"),
        ("2030-01-02", "", "here"),
        ("2030-01-02", "2030-01-03", "committed"),
        ("2030-01-03", "2030-01-02", "here"),
    ],
)
def test_a_journal_begins_from_what_is_committed_where_that_is_newer(here, committed, kept, tmp_path):
    path = tmp_path / "results.jsonl"
    if here is not None:
        Journal(path).append(result("one", checked=here, stage="here"))
    Journal(path).append(result("one", depth="exact", stage="other depth"))
    journal = Journal(path, [result("one", checked=committed, stage="committed")])
    assert journal.newest("onnx")["one"].stage == kept
    assert journal.newest("exact")["one"].stage == "other depth"
    journal.append(result("one", stage="now"))
    assert journal.newest("onnx")["one"].stage == "now"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command on a folder of its own, with work that notes what it is asked to do."""
    asked = []

    def fake_run_each(work, tasks, limits, *, jobs):
        for task, _ in tasks:
            asked.append(task.model)
            yield task, {"parameters": 1, "groups": 1} | ({"error": "no"} if task.model == "test_vit" else {})

    monkeypatch.setattr(coverage, "WORK", tmp_path / "work")
    monkeypatch.setattr(coverage, "run_each", fake_run_each)
    monkeypatch.setattr(coverage, "DOCS", tmp_path / "docs")

    def command(*argv):
        asked.clear()
        return coverage.main(argv), list(asked)

    return command


def test_a_second_run_redoes_nothing_and_still_fails(run, tmp_path):
    assert run("--only", "test_[br]*") == (0, ["test_byobnet", "test_resnet"])
    assert run("--only", "test_[brv]*") == (1, ["test_vit", "test_vit_relpos"])
    assert run("--only", "test_[brv]*") == (1, [])
    assert run("--only", "test_r*", "--again") == (0, ["test_resnet"])
    assert run("--only", "test_m*", "--report") == (0, [])
    assert "| test_resnet | resnet.ResNet |" in (tmp_path / "docs" / "coverage.md").read_text()
    assert (tmp_path / "docs" / "coverage.csv").read_text().count("\n") == 5


def test_a_fresh_checkout_goes_on_from_what_is_committed(run, tmp_path):
    assert run("--only", "test_[bv]*")[0] == 1
    written = (tmp_path / "docs" / "coverage.csv").read_bytes()
    (tmp_path / "work" / "results.jsonl").unlink()
    assert run("--only", "test_[bv]*") == (1, [])
    assert run("--only", "test_r*") == (0, ["test_resnet"])
    assert set(written.splitlines()) < set((tmp_path / "docs" / "coverage.csv").read_bytes().splitlines())


def test_all_entry_points_are_asked_for_by_name(run):
    assert run("--torchvision", "--only", "*/swin_*") == (0, ["torchvision/swin_t", "torchvision/swin_v2_t"])
    assert run("--all", "--only", "resnet1[08]") == (0, ["resnet18"])
    assert run("--only", "nothing*") == (2, [])


def test_the_classes_are_those_of_timm_and_their_smallest():
    points = read()
    assert {point.module for point in points} == {module for module, _ in entry_points()}
    assert len({(point.module, point.cls) for point in points}) == len(points)
    assert describe("starnet", "starnet_s050") in points
    family = [describe("starnet", name) for module, name in entry_points() if module == "starnet"]
    assert smallest(reversed(family)) == [point for point in points if point.module == "starnet"]


def test_the_first_of_several_smallest_is_taken():
    sizes = {("B", "p"): 4, ("A", "q"): 3, ("A", "r"): 2, ("A", "s"): 2}
    points = [EntryPoint("mod", cls, name, size, 64) for (cls, name), size in sizes.items()]
    assert [point.name for point in smallest(points)] == ["r", "p"]


def test_the_file_of_classes_is_written_as_it_is_read(tmp_path):
    write(read(), tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_bytes() == Path(CLASSES).read_bytes()


@pytest.mark.parametrize(
    ("model", "image", "arguments"),
    [
        ("test_resnet", 96, {}),
        ("test_vit_relpos", 96, {"img_size": 96}),
        ("crossvit_tiny_240", 128, {}),
        ("efficientformer_l1", 224, {}),
    ],
)
def test_images_are_as_small_as_the_network_takes(model, image, arguments):
    form = small_form(model)
    assert (form.image, form.arguments) == (image, arguments)


# Model, the least share that can be pruned, the most parameters after: what was reached may not be lost again.
SMALL = [
    ("test_byobnet", 0.99, 0.40),
    ("test_coatnet", 0.99, 0.32),
    ("test_convnext", 0.99, 0.34),
    ("test_efficientnet", 0.99, 0.44),
    ("test_mambaout", 0.99, 0.41),
    ("test_nfnet", 0.60, 0.70),
    ("test_resnet", 0.99, 0.31),
    ("test_vit", 0.66, 0.67),
    ("test_vit_relpos", 0.99, 0.31),
    ("dla46x_c", 0.99, 0.32),
    ("edgenext_xx_small", 0.99, 0.30),
    ("ese_vovnet19b_slim_dw", 0.99, 0.33),
    ("mobilevit_xxs", 0.99, 0.32),
    ("starnet_s050", 0.99, 0.34),
    ("swiftformer_xs", 0.97, 0.32),
]


@pytest.mark.parametrize(("model", "share", "parameters"), SMALL)
def test_small_classes_are_pruned_exactly_and_exported(model, share, parameters):
    facts = {}
    check(Task(model), lambda **told: facts.update(told))
    found = result_from({"model": model, "depth": "onnx", "digest": "", **facts})
    assert found.verdict == "exact, exported", found
    assert found.error64 < 1e-12 and found.error_onnx < 1e-5
    assert found.share >= share and found.parameters_after / found.parameters <= parameters


@pytest.mark.parametrize(
    ("model", "family", "arguments"),
    [
        ("torchvision/swin_v2_t", "swin_v2", [[2, 3, 64, 64]]),
        ("torchvision/r2plus1d_18", "r2plus1d", [[2, 3, 16, 64, 64]]),
        ("torchvision/raft_small", "raft", [[2, 3, 128, 128]] * 2),
        ("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn", [[2, 3, 128, 128], [2, 3, 4]]),
        ("torchvision/ssdlite320_mobilenet_v3_large", "ssdlite", [[2, 3, 320, 320]]),
    ],
)
def test_the_smallest_of_each_family_of_torchvision_with_its_arguments(model, family, arguments):
    assert {point.cls: point.name for point in torchvision_points()}[family] == model
    form = torchvision_form(model)
    assert [list(x.shape) for x in form.example(form.build())] == arguments


@pytest.mark.parametrize("model", ["torchvision/squeezenet1_1", "torchvision/lraspp_mobilenet_v3_large"])
def test_networks_of_torchvision_are_pruned_exactly(model):
    facts = {}
    check(Task(model, "exact"), lambda **told: facts.update(told))
    found = result_from({"model": model, "depth": "exact", "digest": "", **facts})
    assert found.verdict == "exact", found
    assert found.error64 < 1e-12 and found.share > 0.99


def test_an_entry_point_is_analysed_without_weights():
    facts = {}
    check(Task("resnet18", "couple"), lambda **told: facts.update(told))
    assert (facts["image"], facts["parameters"], facts["capture"]) == (224, 11689512, "plain")
    assert facts["share"] > 0.99 and "error64" not in facts


@pytest.mark.parametrize(
    ("model", "buffers_have_values"),
    [("vit_tiny_patch16_dinov3_qkvb", True), ("vit_tiny_r_s16_p8_224", False)],
    ids=["buffers with values", "a builder that runs the network"],
)
def test_a_network_without_weights_keeps_the_values_of_its_buffers(model, buffers_have_values):
    network = with_constants(model)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not any(buffer.is_meta for buffer in network.buffers()) or not buffers_have_values
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_network_above_the_limit_is_left_out():
    facts = {}
    check(Task("resnet18", most_parameters=1e6), lambda **told: facts.update(told))
    assert facts == {"stage": "build", "parameters": 11689512, "image": 128, "too_large": True}
