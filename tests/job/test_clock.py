"""A phase is announced when it begins; durations read like those that people say."""

from __future__ import annotations

import pytest

from fxprune.common.progress import in_words
from fxprune.passes.job.clock import Clock


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (5940, "99 min"), (11100, "3 h 05 min")]
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_quiet_clock_only_counts(capsys):
    for loud, said in ((True, "train    the wide network\n"), (False, "")):
        clock = Clock(loud)
        with clock("train", "the wide network"):
            assert capsys.readouterr().err == said
        assert list(clock.seconds) == ["train"]
