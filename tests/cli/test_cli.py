"""The command line on real digits: every command does its work."""

from __future__ import annotations

import functools
import json
import re
import shutil

import onnx as onnx_file
import pytest
import torch
from helpers.command_line import RESULTS, SMALL, Small, enter, left, run
from helpers.jobs.damage import list_again
from helpers.timings import time_nothing

import fxprune
from fxprune.cli.commands.export import FORMATS
from fxprune.cli.main import _parser
from fxprune.models_zoo import registry
from fxprune.models_zoo.data import load_data
from fxprune.models_zoo.networks import CifarResNet
from fxprune.passes.options.recipe import read_recipe
from fxprune.passes.store import layout, save_weights


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    # One block in each stage: the depth of a resnet20 shows nothing more.
    return enter(tmp_path, monkeypatch, resnet8=functools.partial(CifarResNet, 1))


def test_digits_in_two_epochs_from_end_to_end(capsys, place):
    line = "compress --model resnet8 --data digits --image-size 8 --keep 0.5 --epochs 2 --csgd-epochs 2 --output out/"
    code, out, err = run(capsys, line)
    assert (code, set(left(place / "out")), left(place)[0]) == (0, RESULTS, "out"), err
    for phase in ("build", "couple", "train", "plan", "csgd", "trim", "verify", "export", "measure"):
        assert f"\n{phase} " in f"\n{err}".replace("\n", " \n")
    assert re.search(r"^  epoch 1 of 2: loss \S+, test .+\), about \d+ s left$", err, re.M)
    assert re.search(r"^  epoch 2 of 2: loss \S+, test .+\)$", err, re.M)
    assert "\n\nNext: open out/report.html in a browser\n      fxprune verify out/ " in out
    rows = (
        "wide, before C-SGD",
        "merged without C-SGD",
        "the same, repaired",
        "wide, after C-SGD",
        "wide, after the snap",
        "narrow, after",
        "narrow, in onnx",
    )
    assert all(any(text.startswith(row) for text in out.splitlines()) for row in rows)

    summary = json.loads((place / "out" / "summary.json").read_text())
    wide, *_, narrow_, onnx = summary["stages"]
    assert narrow_["changed"] == onnx["changed"] == 0
    assert narrow_["count"] == 360
    assert 0.24 < narrow_["params"] / wide["params"] < 0.27  # half the width: a quarter, and the ends of the network
    assert narrow_["macs"] / wide["macs"] < 0.27
    assert summary["max_rel_error"] < 1e-9
    assert summary["onnx_rel_error"] < 1e-4
    assert summary["widths"]["conv1.weight"] == [16, 8]
    assert fxprune.load("out")(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    # Whoever serves the file finds in it alone what it expects and what it answers.
    expects = {entry.key: json.loads(entry.value) for entry in onnx_file.load("out/narrow.onnx").metadata_props}
    assert expects["input_size"] == [1, 8, 8] and expects["label_names"] == list("0123456789")
    assert (expects["crop_pct"], expects["interpolation"]) == (1.0, "bilinear")
    data = load_data("digits", image_size=8)
    assert (expects["mean"], expects["std"]) == ([*data.mean], [*data.std])

    # The report has what no other file tells, and its costs are those of the table.
    recorded = json.loads((place / "out" / "report.json").read_text())
    for kind in ("params", "macs"):
        sums = [sum(share[kind][when] for share in recorded["shares"]) for when in (0, 1)]
        assert sums == [wide[kind], narrow_[kind]]
    assert (len(recorded["answers"]), [*recorded["onnx"]], recorded["in_python"]) == (12, ["1", "2", "3", "5"], [])
    page = (place / "out" / "report.html").read_text(encoding="utf-8")
    assert "✓ Every check holds." in page and "Left out" not in page

    assert out.startswith(run(capsys, "report out")[1].split("\n\n")[0])
    assert (place / "out" / "report.html").read_text(encoding="utf-8") == page
    code, out, err = run(capsys, "verify out")
    assert (code, out.count("holds")) == (0, 7), err
    for name in ("narrow.onnx", "wide.safetensors", "summary.csv"):
        (place / "out" / name).rename(place / "aside")
        code, _, err = run(capsys, "verify out")
        assert (code, f"cannot read out/{name}: No such file" in err) == (1, True)
        (place / "aside").rename(place / "out" / name)

    # From a checkpoint there is no training, and the files of the earlier run are replaced.
    line = "compress --model resnet8 --data digits --image-size 8 --checkpoint out/wide.safetensors --csgd-epochs 1"
    code, out, err = run(capsys, line + " --keep 0.25 --quiet")
    assert (code, err, set(left(place / "out"))) == (0, "", RESULTS)
    assert json.loads((place / "out" / "summary.json").read_text())["stages"][0]["correct"] == wide["correct"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a run on `small` leaves; it is to be copied, not changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "OWN", {"small": Small})
        time_nothing(patch)
        fxprune.compress("small", "digits", image_size=8, epochs=0, csgd_epochs=1, output=out, progress=False)
    return out


def test_bench_prints_both_networks_in_both_runtimes(capsys, finished):
    code, out, err = run(capsys, f"bench {finished} --batch 1 4")
    assert (code, out.count("PyTorch"), out.count("onnxruntime")) == (0, 2, 2), err
    assert out.endswith(f"\n\nNext: fxprune export {finished} --format python    # or onnx, pt2, openvino, timm\n")


def test_the_recipe_of_a_run_repeats_it(capsys, finished, place, untimed):
    code, _, err = run(capsys, f"compress --recipe {finished / 'recipe.yaml'} --output out2 --quiet")
    assert code == 0, err
    for name in ("snapped.safetensors", "weights.safetensors", "plan.json"):
        assert (place / "out2" / name).read_bytes() == (finished / name).read_bytes(), name
    again = read_recipe(place / "out2" / "recipe.yaml")
    assert again == read_recipe(finished / "recipe.yaml") | {"output": "out2"}


def test_export_writes_the_same_file_again(capsys, finished, place, exported_afresh):
    code, _, err = run(capsys, f"export {finished} -o again.onnx")
    assert (code, left(place)) == (0, ["again.onnx"]), err
    assert (place / "again.onnx").read_bytes() == (finished / "narrow.onnx").read_bytes()


@pytest.mark.parametrize("options", ["", "-o out/again.py"], ids=["in the folder", "elsewhere"])
def test_export_writes_python_source(capsys, finished, place, options, forked):
    shutil.copytree(finished, place / "in")
    code, out, err = run(capsys, f"export in --format python {options}")
    path = place / ("out/again.py" if options else "in/narrow.py")
    assert (code, str(path.relative_to(place)) in out) == (0, True), err
    assert out.endswith("\n\nNext: fxprune verify in    # all checks again, from the files alone\n")
    assert "class Small(nn.Module):" in path.read_text() and path.with_suffix(".safetensors").is_file()
    assert run(capsys, "verify in")[0] == 0  # the folder is whole


def test_export_formats_are_results_of_a_folder(capsys, finished):
    assert {name for each in FORMATS.values() for name in each.files} <= set(layout.RESULTS)
    code, _, err = run(capsys, f"export {finished} --format python --opset 18")
    assert (code, "--opset is for --format onnx" in err) == (2, True)


def test_inspect_prints_the_coupling_and_draws_it(capsys, place):
    drawings = "--dot a.dot --graphml a.xml --mermaid a.mmd"
    code, out, _ = run(capsys, f"inspect small --in-chans 1 --image-size 8 {drawings}")
    assert code == 0
    assert "first.weight" in out
    assert "2 groups" in out
    starts = {"a.dot": "graph coupling {", "a.xml": "<graphml", "a.mmd": "flowchart TD"}
    assert {name: (place / name).read_text()[: len(start)] for name, start in starts.items()} == starts


def test_a_plan_that_was_written_is_used(capsys, place):
    line = "plan small --data digits --image-size 8 --widths first.weight=3 --method even -o plan.json"
    code, out, _ = run(capsys, line)
    assert code == 0
    assert re.search(r"first.weight +8 +3 ", out)
    code, _, err = run(capsys, SMALL + " --plan plan.json --output out")
    assert (code, len(re.findall(r"epoch 1 of 1: loss \d.*test \d", err))) == (0, 1)  # there is no terminal for a bar
    widths = json.loads((place / "out" / "summary.json").read_text())["widths"]
    assert widths == {"first.weight": [8, 3], "second.weight": [8, 8]}


def test_prove_prints_the_verdict(capsys):
    code, out, _ = run(capsys, "prove small --data digits --image-size 8")
    assert (code, "\nproved\n\nNext: fxprune plan small --data digits --image-size 8 --keep 0.5\n" in out) == (0, True)


def test_verify_sees_weights_that_were_tampered_with(capsys, finished, place):
    shutil.copytree(finished, place / "out")
    save_weights(Small(10), place / "out" / "snapped.safetensors")
    code, _, err = run(capsys, "verify out")
    assert (code, "snapped.safetensors is not the file that was saved" in err) == (1, True)
    list_again(place / "out")
    code, out, _ = run(capsys, "verify out")
    # the clusters are not equal, so that merging them changes the network, and the stored one is of another;
    # it, its widths and the ONNX file are as they were
    assert (code, out.count("FAILS"), out.count("holds")) == (1, 4, 3)
    assert "they are not equal" in out


@pytest.mark.parametrize("command", ["compress", "fold x"])
def test_the_short_flag_of_an_output_is_that_of_every_command(command):
    assert _parser(command.split()[:1]).parse_args([*command.split(), "-o", "small"]).output == "small"
