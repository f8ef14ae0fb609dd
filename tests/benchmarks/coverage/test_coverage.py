"""The coverage command redoes nothing, goes on from what is committed, and still tells of failures."""

from __future__ import annotations

import pytest

from benchmarks import runs
from benchmarks.coverage import __main__ as coverage


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command on a folder of its own, with work that notes what it is asked to do."""
    asked = []

    def fake_run_each(work, tasks, limits, *, jobs, preload):
        for task, _ in tasks:
            asked.append(task.model)
            yield task, {"parameters": 1, "groups": 1} | ({"error": "no"} if task.model == "test_vit" else {})

    monkeypatch.setattr(coverage, "WORK", tmp_path / "work")
    monkeypatch.setattr(runs, "run_each", fake_run_each)
    monkeypatch.setattr(coverage, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(coverage, "imported", lambda: [])  # which files a check imports takes a process to find

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
