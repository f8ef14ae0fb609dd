"""The files of a run appear together when it ends well, replace those of another run, and never one of the user's."""

from __future__ import annotations

import os

import pytest
from helpers.jobs.folders import refused, run, run_with, write, written

from fxprune.common.files import written_aside
from fxprune.errors import CheckpointError, InputError, OptionError, VerifyError
from fxprune.passes.store import folder
from fxprune.passes.store.folder import check_no_result, folder_aside
from fxprune.passes.store.layout import EVENTS, MANIFEST, PLAN, RESULTS, ROWS, SUMMARY
from fxprune.passes.store.manifest import read_manifest

EVENT = f"{EVENTS}/events.out.tfevents.1"


def _write_and_raise(out, error):
    with folder_aside(out, files=[ROWS]) as aside:
        write(aside, {ROWS: "1"})
        raise error(aside)


def test_a_folder_appears_when_the_block_ends_well(tmp_path):
    out = tmp_path / "a" / "out"
    with folder_aside(out, files=[ROWS, SUMMARY]) as aside:
        write(aside, {ROWS: "1"})
        assert not (out / ROWS).exists()
    assert written(tmp_path) == [f"a/out/{MANIFEST}", f"a/out/{ROWS}"]


def test_what_an_earlier_run_wrote_stays_where_a_check_fails_before_anything_is_written(tmp_path):
    run(tmp_path, {ROWS: "1"}, [ROWS])

    def fail(aside):
        raise VerifyError("the file cannot be had")

    with pytest.raises(VerifyError):
        run_with(tmp_path, [ROWS], fail)
    assert (tmp_path / ROWS).read_text() == "1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, InputError, RuntimeError])
def test_nothing_appears_when_it_does_not(tmp_path, error):
    with pytest.raises(error):
        _write_and_raise(tmp_path / "a" / "out", lambda _: error())
    assert not list(tmp_path.iterdir())


def test_what_a_check_found_wrong_stays_to_be_looked_at(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(VerifyError) as caught:
        _write_and_raise(out, lambda aside: VerifyError(f"look at {aside / ROWS}."))
    assert str(caught.value) == f"look at {out / ROWS}."
    assert written(tmp_path) == [f"out/{MANIFEST}", f"out/{ROWS}"]


def test_the_files_of_another_run_are_replaced_and_no_others(tmp_path):
    write(tmp_path, {"notes": "mine", f"{EVENTS}/mine": "mine"})
    run(tmp_path, {PLAN: "old", ROWS: "old", EVENT: "old"})
    run(tmp_path, {ROWS: "new", f"{EVENTS}/events.out.tfevents.2": "new"})
    assert written(tmp_path) == [MANIFEST, "notes", ROWS, f"{EVENTS}/events.out.tfevents.2", f"{EVENTS}/mine"]
    assert ((tmp_path / ROWS).read_text(), (tmp_path / "notes").read_text()) == ("new", "mine")
    read_manifest(tmp_path).check(tmp_path, [ROWS])


def test_records_that_are_the_users_by_now_stay(tmp_path):
    run(tmp_path, {EVENT: "1"})
    write(tmp_path, {EVENT: "mine"})
    run(tmp_path, {ROWS: "2"})
    assert (tmp_path / EVENT).read_text() == "mine"


def test_a_file_that_is_written_again_leaves_the_others_listed(tmp_path):
    run(tmp_path, {ROWS: "1", PLAN: "2"})
    run(tmp_path, {ROWS: "3"}, [ROWS])
    read_manifest(tmp_path).check(tmp_path, [ROWS, PLAN])


FOREIGN = {
    "a file": lambda out: write(out, {PLAN: "mine"}),
    "ours, with changes of the user's": lambda out: (run(out, {PLAN: "1"}), write(out, {PLAN: "mine"})),
    "a folder": lambda out: (out / PLAN).mkdir(parents=True),
    "a link": lambda out: (write(out, {"other": "mine"}), (out / PLAN).symlink_to(out / "other")),
    "a dangling link": lambda out: (out.mkdir(), (out / PLAN).symlink_to(out / "nowhere")),
    "a link to our own file": lambda out: (
        run(out, {PLAN: "1"}),
        (out / PLAN).rename(out / "other"),
        (out / PLAN).symlink_to(out / "other"),
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_ours_is_refused_before_any_work(tmp_path, case):
    out = tmp_path / "out"
    FOREIGN[case](out)
    before = {name: (tmp_path / name).read_bytes() for name in written(tmp_path)}
    with pytest.raises(OptionError, match=rf"{PLAN} is not as this program wrote it"):
        refused(out)
    assert {name: (tmp_path / name).read_bytes() for name in written(tmp_path)} == before


def test_what_the_user_puts_there_meanwhile_stays(tmp_path):
    def meanwhile(aside):
        write(aside, {PLAN: "ours"})
        write(tmp_path, {PLAN: "mine"})

    with pytest.raises(OptionError, match=PLAN):
        run_with(tmp_path, RESULTS, meanwhile)
    assert written(tmp_path) == [PLAN] and (tmp_path / PLAN).read_text() == "mine"


@pytest.mark.parametrize("name", ["../mine", "/etc/mine", "notes", f"{EVENTS}/../mine", f"{EVENTS}/mine", EVENTS])
def test_a_manifest_that_lists_what_is_never_ours_is_refused(tmp_path, name):
    run(tmp_path / "out", {PLAN: "1"})
    text = (tmp_path / "out" / MANIFEST).read_text()
    (tmp_path / "out" / MANIFEST).write_text(text.replace(f'"{PLAN}"', f'"{name}"'))
    with pytest.raises(CheckpointError, match="is no file of a folder of results"):
        refused(tmp_path / "out")


@pytest.mark.parametrize("count", range(1, 6))
def test_killed_while_files_appear_the_next_run_replaces_them_all_the_same(tmp_path, monkeypatch, count):
    run(tmp_path, {PLAN: "old", ROWS: "old"})
    write(tmp_path, {"notes": "mine"})
    replace, calls = os.replace, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        try:
            run(tmp_path, {PLAN: "new", ROWS: "new", SUMMARY: "new"})
        except KeyboardInterrupt:
            assert count < 6
    if count > 1:
        with pytest.raises(CheckpointError, match="did not appear whole"):
            read_manifest(tmp_path).check(tmp_path, [PLAN])
    run(tmp_path, {PLAN: "newer"})
    assert written(tmp_path) == [MANIFEST, "notes", PLAN] and (tmp_path / PLAN).read_text() == "newer"


def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="has no name"):
        refused("")


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path, {"out": ""})
    with pytest.raises(OptionError, match="is a file"):
        refused(tmp_path / "out" / "deep")


def test_a_link_to_nowhere_is_told(tmp_path):
    (tmp_path / "out").symlink_to("gone")
    with pytest.raises(OptionError, match="out is a link to gone, which does not exist"):
        refused(tmp_path / "out")


def test_a_result_is_not_what_a_file_that_the_user_names_replaces(tmp_path):
    run(tmp_path, {PLAN: "1"})
    check_no_result(tmp_path / "other.json")
    with pytest.raises(OptionError, match="is one of the files of the run in"):
        check_no_result(tmp_path / PLAN)


def test_an_output_inside_the_checkpoints_of_a_run_is_refused(tmp_path):
    write(tmp_path, {"out/checkpoints/files.json": "{}"})
    for inside in ("out/checkpoints", "out/checkpoints/deep/er"):
        with pytest.raises(OptionError, match="holds checkpoints of a run"):
            refused(tmp_path / inside)


def test_an_orphan_whose_name_leads_elsewhere_is_left_alone(tmp_path):
    write(tmp_path, {"mine/file": "mine"})
    folder._clean(tmp_path, "../mine")
    folder._clean(tmp_path, None)
    assert written(tmp_path) == ["mine/file"]


@pytest.mark.parametrize(
    "name",
    [MANIFEST, ".fxprune.lock", EVENT, "checkpoints/train.pt", "checkpoints/files.json", "checkpoints/../plan.json"],
)
def test_no_file_of_a_run_is_what_a_file_that_the_user_names_replaces(tmp_path, name):
    run(tmp_path, {PLAN: "1", EVENT: "2"})
    write(tmp_path, {"checkpoints/files.json": "{}", ".fxprune.lock": "{}"})
    with pytest.raises(OptionError, match="is one of the files of the run in"):
        check_no_result(tmp_path / name)


def test_a_file_that_is_read_too_is_not_replaced(tmp_path):
    write(tmp_path, {"weights.pt": "mine"})
    os.link(tmp_path / "weights.pt", tmp_path / "same.pt")
    for name in ("weights.pt", "same.pt", "../" + tmp_path.name + "/weights.pt"):
        with pytest.raises(OptionError, match="is also read"):
            check_no_result(tmp_path / name, [None, 0.5, "other", str(tmp_path / "weights.pt")])
    check_no_result(tmp_path / "weights.pt", [None, str(tmp_path / "other.pt"), "\0"])


def test_neither_a_link_nor_a_pipe_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(OptionError, match="is a link, a pipe or a device"):
            check_no_result(tmp_path / name)
        with pytest.raises(OSError, match="Not a regular file"), written_aside(tmp_path / name):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}
