"""The journal keeps every result, knows of which sources it is, and says what is missing."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers.benchmarks.coverage import FAILED, FULL, result

from benchmarks import ROOT
from benchmarks.checks.journal import CheckJournal
from benchmarks.sources import digest, sources


def test_results_survive_the_journal(tmp_path):
    journal = CheckJournal(tmp_path / "deep" / "results.jsonl")
    for each in (FULL, FAILED, dataclasses.replace(FULL, share=0.5)):
        journal.append(each)
    assert CheckJournal(tmp_path / "deep" / "results.jsonl").newest("onnx") == journal.newest("onnx")
    assert journal.newest("onnx") == {"one": dataclasses.replace(FULL, share=0.5), "two": FAILED}
    assert len((tmp_path / "deep" / "results.jsonl").read_text().splitlines()) == 3


def test_a_line_that_was_cut_off_counts_as_not_written(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(FULL.to_json()) + "\n" + json.dumps(FAILED.to_json())[:40])
    journal = CheckJournal(path)
    assert journal.newest("onnx") == {"one": FULL}
    journal.append(FAILED)
    assert CheckJournal(path).newest("onnx") == {"one": FULL, "two": FAILED}


def test_only_results_of_other_sources_are_missing_and_failures_come_first(tmp_path):
    journal = CheckJournal(tmp_path / "results.jsonl")
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


def test_a_deeper_check_that_went_well_and_is_newer_has_done_the_shallower_one(tmp_path):
    journal = CheckJournal(tmp_path / "results.jsonl")
    shallow = {"depth": "couple", "digest": "old", "checked": "2030-01-02"}
    for model, known in (
        ("newer", {"checked": "2030-01-03"}),
        ("older", {"checked": "2030-01-01"}),
        ("failed", {"checked": "2030-01-03", "error": "e"}),
        ("deepest", {"checked": "2030-01-03", "depth": "onnx"}),
    ):
        journal.append(result(model, **shallow))
        journal.append(result(model, **{"depth": "exact", "error64": 1e-15, **known}))
    journal.append(result("alone", depth="exact"))
    models = ["newer", "older", "failed", "deepest", "alone"]
    assert journal.missing(models, "couple", "new") == ["older", "failed"]
    assert journal.missing(models, "onnx", "new") == ["newer", "older", "failed", "alone"]
    known = journal.known("couple")
    assert {name: each.checked for name, each in known.items()} == {
        **{"newer": "2030-01-03", "older": "2030-01-02", "failed": "2030-01-02", "deepest": "2030-01-03", "alone": ""}
    }
    assert {(each.depth, each.error64) for each in known.values()} == {("couple", None)}  # what a shallow check tells
    assert {depth: sorted(results) for depth, results in journal.standing().items()} == {
        **{
            "couple": ["failed", "older"],
            "exact": ["alone", "failed", "newer", "older"],
            "onnx": ["deepest"],
            "fold": [],
        }
    }
    assert journal.known("exact")["deepest"] == result("deepest", depth="exact", error64=1e-15, checked="2030-01-03")


def test_the_digest_knows_every_source(tmp_path):
    files = [tmp_path / "core.py", tmp_path / "pass.py"]
    for path, text in zip(files, ("a = 1", "b = 1")):
        path.write_text(text)
    seen = {digest(files), digest(files[:1]), digest(files[1:])}
    files[1].write_text("b = 2")
    seen.add(digest(files))
    assert len(seen) == 4 and digest(files[::-1]) in seen


def test_comments_and_docstrings_change_no_digest(tmp_path):
    path = tmp_path / "core.py"
    path.write_text('"""One."""\n\n\ndef f():\n    """Two."""\n    return "three"\n')
    before = digest([path])
    path.write_text('"""1."""\ndef f():\n    """2."""\n    return ("three")  # 4\n')
    assert digest([path]) == before
    path.write_text('"""One."""\n\n\ndef f():\n    """Two."""\n    return "four"\n')
    assert digest([path]) != before


def test_moving_a_file_and_its_imports_changes_no_digest(tmp_path):
    (tmp_path / "room").mkdir()
    path, moved = tmp_path / "core.py", tmp_path / "room" / "nut.py"
    path.write_text("from .walk import Walk\n\n\ndef f():\n    import math\n\n    return Walk(math.pi)\n")
    moved.write_text("from ..walk import Walk\n\n\ndef f():\n    from math import e\n\n    return Walk(math.pi)\n")
    law = tmp_path / "room" / "__init__.py"
    law.write_text('"""The law of the room."""\n\nfrom .nut import f as f\n\n__all__ = ["f"]\n')
    assert digest([path]) == digest([moved]) == digest([law, moved])


def test_what_only_trains_is_no_source_of_a_check():
    found = {str(path.relative_to(ROOT)) for path in sources()}
    assert {
        "fxprune/analysis/state.py",
        "fxprune/analysis/rules/view.py",
        "passes/rewrite/graph.py",
        "passes/onnx/export.py",
    } <= found
    assert not {"passes/csgd/hook.py", "passes/train/fit.py", "passes/job/compression.py"} & found


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
        CheckJournal(path).append(result("one", checked=here, stage="here"))
    CheckJournal(path).append(result("one", depth="exact", stage="other depth"))
    journal = CheckJournal(path, [result("one", checked=committed, stage="committed")])
    assert journal.newest("onnx")["one"].stage == kept
    assert journal.newest("exact")["one"].stage == "other depth"
    journal.append(result("one", stage="now"))
    assert journal.newest("onnx")["one"].stage == "now"
