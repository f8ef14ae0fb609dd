"""The command line on real digits, and on everything that a user can get wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import fxprune
from fxprune.cli import main
from fxprune.errors import ExportError
from fxprune.models_zoo import registry
from fxprune.passes import compress, compress_trim, culprit
from fxprune.passes.deviation_plot import can_draw
from fxprune.passes.narrow import narrow
from fxprune.passes.recipe import read_recipe
from fxprune.passes.weights import save_weights

RESULTS = {
    "metrics.jsonl",
    "recipe.yaml",
    "wide.safetensors",
    "snapped.safetensors",
    "plan.json",
    "weights.safetensors",
    "network.json",
    "narrow.onnx",
    "summary.json",
    "summary.csv",
    *(["deviation.svg"] if can_draw() else []),
}


class Small(nn.Module):
    """Groups `first.weight` and `second.weight`."""

    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.first, self.norm = nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


class Branching(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Flat(nn.Module):
    """Nothing to prune: the only layer reads pixels and writes classes."""

    def __init__(self, num_classes, in_chans=1):
        super().__init__()
        self.head = nn.Linear(in_chans * 64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = {"small": Small, "branching": Branching, "flat": Flat}
    monkeypatch.setattr(registry, "OWN", {**registry.OWN, **models})
    return tmp_path


def run(capsys, line):
    """Exit code, stdout and stderr of a command; `small` and 8 x 8 pixels keep it short."""
    try:
        code = main(line.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


CHECKPOINTS = [f"out/checkpoints{name}" for name in ("", "/csgd.pt", "/metrics.jsonl", "/plan.pt")]
SMALL = "compress --model small --data digits --image-size 8 --epochs 0 --csgd-epochs 1"


def test_digits_in_two_epochs_from_end_to_end(capsys, place):
    line = "compress --model resnet20 --data digits --image-size 16 --keep 0.5 --epochs 2 --csgd-epochs 2 --output out/"
    code, out, err = run(capsys, line)
    assert (code, set(left(place / "out")), left(place)[0]) == (0, RESULTS, "out"), err
    for phase in ("build", "couple", "train", "plan", "csgd", "trim", "verify", "export", "measure"):
        assert f"\n{phase} " in f"\n{err}".replace("\n", " \n")
    rows = ("wide, before C-SGD", "merged without C-SGD", "wide, after C-SGD", "narrow, after", "narrow, in onnx")
    assert all(any(text.startswith(row) for text in out.splitlines()) for row in rows)

    summary = json.loads((place / "out" / "summary.json").read_text())
    wide, _, _, narrow_, onnx = summary["stages"]
    assert narrow_["changed"] == onnx["changed"] == 0
    assert narrow_["count"] == 360
    assert 0.24 < narrow_["params"] / wide["params"] < 0.27  # half the width: a quarter, and the ends of the network
    assert narrow_["macs"] / wide["macs"] < 0.27
    assert summary["max_rel_error"] < 1e-9
    assert summary["onnx_rel_error"] < 1e-4
    assert summary["widths"]["conv1.weight"] == [16, 8]
    assert fxprune.load("out")(torch.zeros(3, 1, 16, 16)).shape == (3, 10)

    assert out.startswith(run(capsys, "report out")[1].split("\n\n")[0])
    code, out, err = run(capsys, "verify out")
    assert (code, out.count("holds")) == (0, 4), err

    # From a checkpoint there is no training, and the files of the earlier run are replaced.
    line = "compress --model resnet20 --data digits --image-size 16 --checkpoint out/wide.safetensors --csgd-epochs 1"
    code, out, err = run(capsys, line + " --keep 0.25 --quiet")
    assert (code, err, set(left(place / "out"))) == (0, "", RESULTS)
    assert json.loads((place / "out" / "summary.json").read_text())["stages"][0]["correct"] == wide["correct"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a run on `small` leaves; it is to be copied, not changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "OWN", {"small": Small})
        fxprune.compress("small", "digits", image_size=8, epochs=0, csgd_epochs=1, output=out, progress=False)
    return out


def test_bench_prints_both_networks_in_both_runtimes(capsys, finished):
    code, out, err = run(capsys, f"bench {finished} --batch 1 4")
    assert (code, out.count("PyTorch"), out.count("onnxruntime")) == (0, 2, 2), err


def test_the_recipe_of_a_run_repeats_it(capsys, finished, place):
    code, _, err = run(capsys, f"compress --recipe {finished / 'recipe.yaml'} --output out2 --quiet")
    assert code == 0, err
    for name in ("snapped.safetensors", "weights.safetensors", "plan.json"):
        assert (place / "out2" / name).read_bytes() == (finished / name).read_bytes(), name
    again = read_recipe(place / "out2" / "recipe.yaml")
    assert again == read_recipe(finished / "recipe.yaml") | {"output": "out2"}


def test_export_writes_the_same_file_again(capsys, finished, place):
    code, _, err = run(capsys, f"export {finished} -o again.onnx")
    assert (code, left(place)) == (0, ["again.onnx"]), err
    assert (place / "again.onnx").stat().st_size == (finished / "narrow.onnx").stat().st_size


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
    assert (code, len(re.findall(r"epoch 1: loss \d.*test \d", err))) == (0, 1)  # there is no terminal for a bar
    widths = json.loads((place / "out" / "summary.json").read_text())["widths"]
    assert widths == {"first.weight": [8, 3], "second.weight": [8, 8]}


def test_prove_prints_the_verdict(capsys):
    code, out, _ = run(capsys, "prove small --in-chans 1 --image-size 8")
    assert (code, out.rstrip().endswith("\nproved")) == (0, True)


BAD = [
    # what the user types after SMALL, or a whole command, and what the answer must name
    ("{small} --model resnt18", ["`resnt18`", "`resnet18`"]),
    ("{small} --model torchvision/resnt18", ["`torchvision/resnt18`", "`torchvision/resnet18`"]),
    ("{small} --model branching", ["Branching", "test_cli.py:", "Make the line independent"]),
    ("{small} --model flat", ["may merge", "1 x"]),
    ("{small} --data nowhere/images", ["nowhere/images", "no such folder"]),
    ("{small} --data empty", ["empty", "train"]),
    ("{small} --checkpoint absent.safetensors", ["absent.safetensors", "no file"]),
    ("{small} --checkpoint cut.safetensors", ["cut.safetensors", "bytes", "cut short"]),
    ("{small} --checkpoint garbage.pt", ["garbage.pt", "cut short"]),
    ("{small} --checkpoint other.safetensors", ["other.safetensors", "another network", "first.weight"]),
    ("{small} --plan absent.json", ["absent.json"]),
    ("{small} --plan cut.json", ["cut.json", "not a whole plan"]),
    ("{small} --plan list.json", ["list.json", "not an fxprune plan"]),
    ("{small} --plan other.json", ["other.json", "another network", "first conv1.weight: (16, 1, 3, 3) in the plan"]),
    ("{small} --widths third.weight=2", ["`third.weight`", "`first.weight`"]),
    ("{small} --widths first.weight=99", ["`first.weight`", "1 to 8", "99"]),
    ("{small} --widths first.weight", ["NAME=N", "`first.weight`"]),
    ("{small} --widths first.weight=0", ["`first.weight`", "1 to 8", "0"]),
    ("{small} --keep 0", ["`keep`", "0.0"]),
    ("{small} --keep half", ["--keep", "half"]),
    ("{small} --keep 0.5 --macs 0.5", ["`macs`", "`keep`"]),
    ("{small} --strength 1 --deviation 1e-6", ["`strength`", "`deviation`"]),
    ("{small} --csgd-epoch 3", ["`--csgd-epoch`", "`--csgd-epochs`"]),
    ("{small} --keeep=0.3", ["`--keeep`", "`--keep`"]),
    ("{small} --epochs 1.5", ["--epochs", "an integer", "`1.5`"]),
    ("{small} --lr none", ["--lr", "a number", "`none`"]),
    ("{small} --recipe resnet_cifar", ["`resnet_cifar`", "neither a file nor a name"]),
    ("{small} --recipe wrong.yaml", ["wrong.yaml, line 2", "`csgd-epoch`", "`csgd-epochs`"]),
    ("{small} --recipe garbage.pt", ["garbage.pt"]),
    ("compress --recipe fine.yaml", ["--data"]),
    ("{small} --keep 0.5 --plan other.json", ["`keep`", "`plan_file`"]),
    ("{small} --method magic", ["magic", "kmeans"]),
    ("{small} --seed -1", ["`seed`", "-1"]),
    ("{small} --lr 0", ["`lr`", "above 0"]),
    ("{small} --strength 1e9", ["lr * strength", "1e+09"]),
    ("{small} --device gpu", ["`gpu`"]),
    ("{small} --opset 99", ["opset 99"]),
    ("{small} --image-size 4", ["`image_size`", "8 or more"]),
    ("{small} --output file/out", ["file", "is a file"]),
    ("{small} --output /proc/nowhere/out", ["/proc"]),
    ("compress --data digits", ["--model"]),
    ("shrink", ["shrink", "compress"]),
    ("inspect small --in-chans 1 --image-size 8 --dot /proc/nowhere/a.dot", ["/proc/nowhere"]),
    ("inspect small --in-chans 3 --image-size 8 --checkpoint other.safetensors", ["other.safetensors"]),
    ("plan small --in-chans 1 --image-size 8 --macs 2", ["`macs`", "2.0"]),
    ("prove flat --in-chans 1 --image-size 8", ["may merge"]),
    ("verify absent", ["absent", "not a saved network"]),
    ("export empty", ["empty", "not a saved network"]),
    ("bench empty", ["empty"]),
    ("report empty", ["summary.json"]),
]


@pytest.fixture(scope="module")
def rubbish(tmp_path_factory):
    """Damaged files of every kind."""
    folder = tmp_path_factory.mktemp("rubbish")
    other = registry.create_model("resnet20", num_classes=10, in_chans=1)
    save_weights(other, folder / "other.safetensors")
    whole = (folder / "other.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.pt").write_bytes(b"\x80\x02garbage")
    plan = fxprune.plan(fxprune.couple(other, torch.empty(2, 1, 8, 8, device="meta")), method="even")
    plan.save(folder / "other.json")
    text = (folder / "other.json").read_text()
    (folder / "cut.json").write_text(text[: len(text) // 2])
    (folder / "list.json").write_text("[]")
    (folder / "wrong.yaml").write_text("model: small\ncsgd-epoch: 3\n")
    (folder / "fine.yaml").write_text("model: small\n")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(("line", "names"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_clear_error_and_leaves_nothing(capsys, monkeypatch, rubbish, line, names):
    monkeypatch.chdir(rubbish)
    monkeypatch.setattr(compress, "train_wide", lambda *_: pytest.fail("trained before the input was checked"))
    before = left(rubbish)
    code, out, err = run(capsys, line.replace("{small}", SMALL))
    message = err.strip().splitlines()[-1]
    assert (code, out) == (2, "")
    assert message.startswith("fxprune")
    assert "Traceback" not in err
    for name in names:
        assert name in message
    assert left(rubbish) == before


def test_debug_shows_where_an_error_arose(capsys, rubbish, monkeypatch):
    monkeypatch.chdir(rubbish)
    code, _, err = run(capsys, SMALL + " --plan cut.json --debug")
    assert (code, "Traceback" in err, "JSONDecodeError" in err) == (2, True, True)


class Full(OSError):
    def __init__(self):
        super().__init__(28, "No space left on device", "out/wide.safetensors")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt, 130, "stopped by SIGINT; what was done is in deep/out/checkpoints"),
        (Full, 2, "out/wide.safetensors: No space left on device"),
        (ZeroDivisionError, 1, "unexpected ZeroDivisionError: no message"),
    ],
)
def test_a_run_that_breaks_off_leaves_only_checkpoints(capsys, monkeypatch, place, error, code, says):
    def fail(*_):
        raise error

    monkeypatch.setattr(compress, "trim", fail)
    got, _, err = run(capsys, SMALL + " --output deep/out")
    assert (got, left(place / "deep"), "Traceback" in err) == (code, ["out", *CHECKPOINTS], False)
    assert says in err.splitlines()[-1]


def test_a_run_that_is_terminated_leaves_a_checkpoint(place):
    line = [sys.executable, "-m", "fxprune", "compress", "--model", "resnet20", "--data", "digits", "--output", "out"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=place) as process:
        for text in process.stderr:
            if text.startswith("  epoch 1"):
                break
        process.send_signal(signal.SIGTERM)
        *_, message = process.stderr.read().splitlines()
    assert (process.returncode, "stopped by SIGTERM after step" in message) == (143, True)
    assert left(place) == ["out", "out/checkpoints", "out/checkpoints/metrics.jsonl", "out/checkpoints/train.pt"]


def test_a_trim_that_changes_a_prediction_fails_loudly(capsys, monkeypatch, place):
    def wrong(model, plan):
        net = narrow(model, plan)
        if "second.weight" in plan.clusters:
            with torch.no_grad():
                net.head.weight.neg_()
        return net

    monkeypatch.setattr(compress_trim, "narrow", wrong)
    monkeypatch.setattr(culprit, "narrow", wrong)
    code, _, err = run(capsys, SMALL + " --output out")
    assert (code, "Traceback" in err) == (1, False)
    assert re.search(r"[1-9]\d* of 360 test images", err)
    assert "the worst group is `second.weight`" in err
    assert files(place / "out") == {"wide.safetensors", "snapped.safetensors", "plan.json"}


def test_an_export_that_disagrees_keeps_its_file(capsys, monkeypatch, place):
    def wrong(module, example, path, **_):
        path.write_bytes(b"wrong")
        raise ExportError(f"{path} and the network disagree.")

    monkeypatch.setattr(compress, "export_onnx", wrong)
    code, _, err = run(capsys, SMALL + " --output out")
    assert (code, err.splitlines()[-1]) == (1, "fxprune: out/narrow.onnx and the network disagree.")
    late = {"summary.json", "summary.csv", "metrics.jsonl", "recipe.yaml", "deviation.svg"}
    assert files(place / "out") == RESULTS - late
    assert (place / "out" / "narrow.onnx").read_bytes() == b"wrong"


def test_verify_sees_weights_that_were_tampered_with(capsys, finished, place):
    shutil.copytree(finished, place / "out")
    save_weights(Small(10), place / "out" / "snapped.safetensors")
    code, out, _ = run(capsys, "verify out")
    # the clusters are not equal, so that merging them changes the network, and the stored one is of another
    assert (code, out.count("FAILS"), out.count("holds")) == (1, 3, 1)
    assert "they are not equal" in out
