"""The files of a run appear together when it ends well, and replace those of another run alone."""

from __future__ import annotations

import pytest

from fxprune.errors import InputError, OptionError, VerifyError
from fxprune.passes.folder import folder_aside


def _write_and_raise(out, error):
    with folder_aside(out, files=["one"]) as aside:
        write(aside, one="1")
        raise error(aside)


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(aside, **files):
    for name, text in files.items():
        (aside / name).write_text(text)


def test_a_folder_appears_when_the_block_ends_well(tmp_path):
    with folder_aside(tmp_path / "a" / "out", files=["one", "two"]) as aside:
        write(aside, one="1")
        assert not (tmp_path / "a").exists()
    assert written(tmp_path) == ["a", "a/out", "a/out/one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, InputError, RuntimeError])
def test_nothing_appears_when_it_does_not(tmp_path, error):
    with pytest.raises(error):
        _write_and_raise(tmp_path / "a" / "out", lambda _: error())
    assert written(tmp_path) == []


def test_what_a_check_found_wrong_stays_to_be_looked_at(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(VerifyError) as caught:
        _write_and_raise(out, lambda aside: VerifyError(f"look at {aside / 'one'}."))
    assert str(caught.value) == f"look at {out / 'one'}."
    assert written(tmp_path) == ["out", "out/one"]


def test_the_files_of_another_run_are_replaced_and_no_others(tmp_path):
    write(tmp_path, one="old", two="old", notes="mine")
    with folder_aside(tmp_path, files=["one", "two"]) as aside:
        write(aside, one="new")
    assert written(tmp_path) == ["notes", "one"]
    assert (tmp_path / "one").read_text() == "new"
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path, out="")
    with pytest.raises(OptionError, match="is a file"), folder_aside(tmp_path / "out" / "deep", files=[]):
        pass


def test_a_folder_aside_goes_with_the_next_run_once_its_process_is_gone(tmp_path):
    orphan = tmp_path / ".out.killed.part"
    orphan.mkdir()
    write(orphan, one="half")
    others = [tmp_path / name for name in (".outer.killed.part", ".out.part")]
    for other in others:
        other.mkdir()
    with (
        folder_aside(tmp_path / "out", files=["one"]) as alive,
        folder_aside(tmp_path / "out", files=["one"]) as second,
    ):
        assert alive.exists() and second.exists() and not orphan.exists()
    assert all(other.exists() for other in others)
