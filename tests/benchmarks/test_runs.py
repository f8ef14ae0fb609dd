"""A run gives each task its limits, and its journal outlives a crash in the middle of a line."""

from __future__ import annotations

import argparse

from benchmarks import runs


def test_each_task_gets_the_limits_of_the_command(monkeypatch, tmp_path):
    asked = []

    def fake(work, tasks, limits, *, jobs, preload):
        asked.append((work, limits, jobs, preload))
        yield from ((task, {"log": log.name}) for task, log in tasks)

    monkeypatch.setattr(runs, "run_each", fake)
    for jobs, line in ((True, ["--jobs", "3", "--memory", "0.5"]), (False, ["--seconds", "7"])):
        parser = argparse.ArgumentParser()
        runs.add_limits(parser, "network", seconds=60.0, jobs=jobs)
        tasks = [(name, tmp_path / name) for name in "ab"]
        found = list(runs.run_all(print, tasks, parser.parse_args(line), noun="network", preload=("x",)))
        assert found == [("a", {"log": "a"}), ("b", {"log": "b"})]
    assert asked == [(print, runs.Limits(60.0, 1 << 29), 3, ("x",)), (print, runs.Limits(7.0, 8 << 30), 1, ("x",))]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert runs.read_rows(path) == []
    runs.append_row(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": ')
    runs.append_row(path, {"a": 2})
    assert runs.read_rows(path) == [{"a": 1}, {"a": 2}]


def test_what_is_missing_or_has_failed_runs(monkeypatch, tmp_path):
    ran, journal = [], tmp_path / "results.jsonl"

    def fake(work, tasks, limits, *, jobs, preload):
        ran.append([(task, log.name) for task, log in tasks])
        yield from ((task, {"error": "died"} if task == "a 2" and len(ran) == 1 else {"one": 1}) for task, _ in tasks)

    def measured(*line):
        args = runs.parser_of("x", "About.", "part", "a *", seconds=1.0, jobs=False).parse_args(line)
        count = runs.run_missing(print, ("a 1", "a 2", "b"), journal, args, noun="part", preload=(), machine="m")
        return count, sorted(name for name, row in runs.newest_rows(journal, "part").items() if row.get("one"))

    monkeypatch.setattr(runs, "run_each", fake)
    assert measured("--only", "a *") == (2, ["a 1"])
    assert measured("--report") == (0, ["a 1"])
    assert measured() == (2, ["a 1", "a 2", "b"])
    assert measured("--again", "--only", "b") == (1, ["a 1", "a 2", "b"])
    assert ran == [[("a 1", "a_1.log"), ("a 2", "a_2.log")], [], [("a 2", "a_2.log"), ("b", "b.log")], [("b", "b.log")]]
    assert all(row["machine"] == "m" and row["day"] for row in runs.read_rows(journal))
