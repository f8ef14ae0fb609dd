"""Loops tell how far they are to who listens, and to nobody else."""

from __future__ import annotations

import pytest

from fxprune.common import progress
from fxprune.common.progress import listening, phase, steps


@pytest.mark.parametrize(
    ("shown", "said"),
    [(True, ["prove    both", "  layer 2 of 5, about 6 s left", "  layer 4 of 5, about 2 s left"]), (False, [])],
)
def test_lines_tell_the_phase_and_the_time_left(shown, said, capsys, monkeypatch):
    now = iter(2.0 * i for i in range(9))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(progress, "EVERY", 3.0)
    with listening(shown):
        phase("prove", "both")
        assert list(steps("abcde", "layer")) == list("abcde")
    assert capsys.readouterr().err.splitlines() == said


def test_nobody_listens_but_to_a_command(capsys):
    phase("prove")
    assert list(steps([1, 2], "layer")) == [1, 2]
    assert capsys.readouterr().err == ""
