"""A folder is checked from its files alone."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers.unequal import narrow_snapped
from torch import nn

import fxprune
from fxprune.passes.report import verify_folder


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
