"""A folder is checked from its files alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.jobs.reports import result
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.errors import CheckpointError
from fxprune.passes.report import verify_folder
from fxprune.passes.store import SUMMARY, fingerprint, read_manifest, read_network


def test_a_weight_that_is_no_number_is_found_where_the_stored_answer_does_not_read_it(tmp_path: Path) -> None:
    words = torch.zeros(2, 5, dtype=torch.long)
    model = nn.Sequential(nn.Embedding(70, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    plan = fxprune.plan(fxprune.couple(model, words), keep=0.5)
    narrow = narrow_snapped(model, plan)
    fxprune.save(narrow, tmp_path / "good")
    assert verify_folder(tmp_path / "good").passed
    with torch.no_grad():
        narrow.get_parameter("0.weight")[69] = float("nan")  # the answer asks for words below 64
    fxprune.save(narrow, tmp_path / "bad")
    report = verify_folder(tmp_path / "bad")
    assert not report.passed and "`0.weight` hold numbers that are not finite" in str(report)


def test_a_listed_summary_is_read_and_held_against_the_plan(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    plan = fxprune.plan(fxprune.couple(model, torch.zeros(2, 4)), keep=0.5)
    fxprune.save(fxprune.narrow(fxprune.snap(model, plan), plan), tmp_path)

    def verdict(text: str) -> str:
        (tmp_path / SUMMARY).write_text(text)
        manifest = read_manifest(tmp_path)
        replace(manifest, files={**manifest.files, SUMMARY: fingerprint(tmp_path / SUMMARY)}).write(tmp_path)
        report = verify_folder(tmp_path)
        return "" if report.passed else str(report)

    assert not verdict(result(tmp_path, widths={"0.weight": (8, 4)}).to_json())
    other = result(tmp_path, widths={"0.weight": (8, 5)})
    assert "says that `0.weight` has [8, 5] channels" in verdict(other.to_json())
    own = read_network(tmp_path)["weights"]
    assert not verdict(result(tmp_path, widths={"0.weight": (8, 4)}, weights=own).to_json())
    swapped = result(tmp_path, widths={"0.weight": (8, 4)}, weights="0" * 64)
    assert "tells of a network with other weights" in verdict(swapped.to_json())
    with pytest.raises(CheckpointError, match="`stages` is missing"):
        verdict("{}")
