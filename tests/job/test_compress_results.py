"""The folder of a result is a model: it is compressed, folded and inspected again."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data
from helpers.timings import time_nothing

import fxprune
from fxprune.cli import main
from fxprune.errors import ModelError, OptionError
from fxprune.passes.job import fold_job
from fxprune.passes.report import verify_folder
from fxprune.passes.serialization import write

pytestmark = pytest.mark.usefixtures("untimed")

QUICK = {"keep": 0.5, "progress": False}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The folder of a tiny network, folded once."""
    output = tmp_path_factory.mktemp("again") / "once"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        time_nothing(patch)
        fold_job(Tiny().eval(), tiny_data(), output=output, **QUICK)
    return output


def test_a_folder_is_folded_again(once, tmp_path):
    fold_job(str(once), tiny_data(), output=tmp_path / "twice", **QUICK)
    first, second = fxprune.load(once), fxprune.load(tmp_path / "twice")
    (earlier,) = second.meta["earlier"]
    assert earlier.widths == first.meta["plan"].widths
    for name, (before, after) in second.meta["plan"].widths.items():
        assert before == first.meta["plan"].widths[name][1]
        assert after < before
    report = verify_folder(tmp_path / "twice")
    assert report.passed
    held = {finding.what: finding.rel_error for finding in report.findings}
    assert held["narrow with wide network, in float64"] < 1e-9
    assert held["stored narrow network with the one made anew"] == 0
    assert "not at hand" not in str(report)
    assert "which no name builds again" in str(report)  # so that the reader sees what was not compared


def test_a_folder_is_compressed_again(once, tmp_path):
    short = {"epochs": 0, "csgd_epochs": 4, "csgd_lr": 0.05}
    fxprune.compress(str(once), tiny_data(), output=tmp_path / "twice", **QUICK, **short)
    assert len(fxprune.load(tmp_path / "twice").meta["earlier"]) == 1


def test_a_folder_is_inspected_and_planned(once, tmp_path, capsys):
    assert main(["inspect", str(once)]) == 0
    assert "first.weight" in capsys.readouterr().out
    assert main(["plan", str(once), "--keep", "0.5", "-o", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["clusters"]


def test_what_a_saved_network_is_not(once, tmp_path):
    with pytest.raises(OptionError, match="neither widened nor has it published weights"):
        fxprune.compress(str(once), tiny_data(), output=tmp_path / "no", pretrained=True, **QUICK)
    with pytest.raises(ModelError):
        fold_job(str(tmp_path), tiny_data(), output=tmp_path / "no", **QUICK)


class Shifted(Tiny):
    def forward(self, x):
        return super().forward(x) + 1


def test_an_unwritable_network_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "operator_name", lambda _: None)
    with pytest.raises(ModelError, match=r"cannot be written down: node .* not in the list of functions"):
        fxprune.compress(Shifted().eval(), tiny_data(), output=tmp_path / "no", **QUICK)
    assert not (tmp_path / "no").exists()
