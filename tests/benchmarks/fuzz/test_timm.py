"""Some of the attacks of `make fuzz ARGS=timm`, and that a reader without its checks would be found."""

from __future__ import annotations

import collections

import pytest

import fxprune.timm
from benchmarks.fuzz import folders as fuzz_folders
from benchmarks.fuzz.timm import TARGET, make_subjects, numbers


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    made = make_subjects(tmp_path_factory.mktemp("fuzz"), networks=("test_vit",))
    return [(subject, numbers(subject, subject.folder)) for subject in made]


def outcomes(subjects, count, signed):
    lines = [fuzz_folders.attack(number, 0, subjects, TARGET) for number in range(int(signed), 2 * count, 2)]
    return collections.Counter(line["outcome"] for line in lines)


@pytest.mark.parametrize("signed", [False, True])
def test_nothing_gets_in_and_nothing_brings_our_code_down(subjects, signed):
    found = outcomes(subjects, 20, signed)
    assert found["refused"] >= 5
    assert not found["other"] + found["raw"]


def test_a_reader_that_holds_no_file_to_the_manifest_is_found(subjects, monkeypatch):
    monkeypatch.setattr(fxprune.timm, "check_listed", lambda _: None)
    assert outcomes(subjects, 20, signed=False)["other"]


def test_an_error_of_our_own_code_is_found(subjects, monkeypatch):
    monkeypatch.setattr(fxprune.timm, "_MOST", None)
    assert outcomes(subjects, 5, signed=True)["raw"]
