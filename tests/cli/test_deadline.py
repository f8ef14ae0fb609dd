"""`fxprune verify` ends, whatever a folder computes."""

from __future__ import annotations

import json
import threading

import pytest

from fxprune.cli import main
from fxprune.passes import report


@pytest.fixture
def endless(monkeypatch):
    """A folder that computes until the process would have ended; what it would have ended with."""
    codes, ended = [], threading.Event()

    def computes(_):
        assert ended.wait(30)
        return report.FolderReport(())

    monkeypatch.setattr(report, "verify_folder", computes)
    monkeypatch.setattr("os._exit", lambda code: (codes.append(code), ended.set()))
    return codes


def test_it_ends_with_one_line_and_code_1(endless, tmp_path, capfd):
    main(["verify", str(tmp_path), "--timeout", "0.01"])
    assert endless == [1]
    said = f"fxprune: {tmp_path} is not verified: it computes for more than 0.01 s. `--timeout` sets the limit.\n"
    assert capfd.readouterr().err == said


def test_it_ends_with_one_document(endless, tmp_path, capfd):
    main(["verify", str(tmp_path), "--timeout", "0.01", "--json"])
    document, _ = json.JSONDecoder().raw_decode(capfd.readouterr().out)  # a process that ended prints no second one
    assert (endless, document["exit_code"], document["error"]["kind"]) == ([1], 1, "CheckpointError")


def test_a_folder_in_time_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "verify_folder", lambda _: report.FolderReport(()))
    monkeypatch.setattr("os._exit", lambda _: pytest.fail("it ended"))
    assert main(["verify", str(tmp_path), "--timeout", "none"]) == main(["verify", str(tmp_path)]) == 0
    assert "verdict" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon", "inf"])
def test_other_times_are_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(tmp_path), "--timeout", text])
    assert f"`{text}` is no number of seconds" in capsys.readouterr().err
