"""Options come from the fields of a dataclass: what each may be, from a recipe and from a command line."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.jobs.options import Base, Every

from fxprune.common.choices import closest
from fxprune.errors import OptionError
from fxprune.passes.options.fields import MISSING, field_name
from fxprune.passes.options.job import Job
from fxprune.passes.options.kinds import PATH, kinds_of, metavar
from fxprune.passes.options.ranges import interval
from fxprune.passes.options.record import Options, options_of

OPTIONS = options_of(Every)


@pytest.mark.parametrize(
    ("hint", "kinds", "optional"),
    [
        (int, [int], False),
        (str | None, [str], True),
        (str | Path, [str], False),
        (Literal["a", "b"] | None, [str], True),
        (str | os.PathLike[str] | None, [PATH], True),
        (Sequence[float] | str | None, [Sequence[float], str], True),
        (str | Sequence[float], [Sequence[float], str], False),  # text last: every word is text
        (tuple[int, ...], [tuple[int, ...]], False),
        (list[str], [list[str]], False),
        (Mapping[str, int] | None, [Mapping[str, int]], True),
        (complex, [], False),
        (tuple[int, str], [], False),
    ],
)
def test_kinds_of_a_type(hint, kinds, optional):
    assert kinds_of(hint) == (tuple(kinds), optional)


READ = [
    # option, as YAML gives it, as a command line gives it, what it means
    ("count", 5, "5", 5),
    ("rate", 5, "5", 5.0),
    ("rate", 1e-3, "1e-3", 1e-3),
    ("rate", None, "none", None),
    ("mixed", True, "true", True),
    ("file", "a/b", "a/b", "a/b"),
    ("drops", [200, 400], "200 400", (200, 400)),
    ("drops", [200], "200", (200,)),
    ("betas", [0.9, 1], "0.9 1", (0.9, 1.0)),
    ("names", ["x", "y"], "x y", ["x", "y"]),
    ("stages", [0.8, 0.5], "0.8 0.5", (0.8, 0.5)),
    ("stages", "auto", "auto", "auto"),
    ("clip", 0.5, "0.5", 0.5),
    ("clip", False, "false", False),
    ("widths", {"a": 1, "b=c": 2}, "a=1 b=c=2", {"a": 1, "b=c": 2}),
]


@pytest.mark.parametrize(("name", "value", "words", "meaning"), READ)
def test_both_ways_mean_the_same(name, value, words, meaning):
    option = OPTIONS[name]
    for found in (option.read(value), option.parse(words.split())):
        assert (found, type(found)) == (meaning, type(meaning))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("count", 5.0, "`count` must be an integer, not 5.0."),
        ("count", True, "`count` must be an integer, not True."),
        ("count", None, "`count` must be an integer, not None."),
        ("rate", "1e-3x", "`rate` must be a number, or none, not '1e-3x'."),
        ("rate", True, "`rate` must be a number, or none, not True."),
        ("mixed", "yes", "`mixed` must be true or false, not 'yes'."),
        ("mixed", 1, "`mixed` must be true or false, not 1."),
        ("size", 1, "`size` must be text, not 1."),
        ("file", ["a"], "`file` must be a path, or none, not ['a']."),
        ("drops", 200, "`drops` must be a list of integers, not 200."),
        ("drops", "200", "`drops` must be a list of integers, not '200'."),
        ("drops", [1.5], "`drops` must be a list of integers, not [1.5]."),
        ("widths", {"a": 1.5}, "`widths` must be a mapping of names to integers (NAME=N), or none, not {'a': 1.5}."),
        ("widths", [], "`widths` must be a mapping of names to integers (NAME=N), or none, not []."),
        ("widths", ["a=1"], "`widths` must be a mapping of names to integers (NAME=N), or none, not ['a=1']."),
        ("widths", {1: 1}, "`widths` must be a mapping of names to integers (NAME=N), or none, not {1: 1}."),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, says):
    with pytest.raises(OptionError) as caught:
        OPTIONS[name].read(value)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("name", "words"),
    [("count", "5.0"), ("count", "none"), ("mixed", "yes"), ("drops", "200 x"), ("widths", "a"), ("widths", "=3")],
)
def test_words_of_another_type_are_refused(name, words):
    with pytest.raises(OptionError, match=f"`{name}` must be .*, not `{words}`"):
        OPTIONS[name].parse(words.split())


def test_the_field_says_all_of_its_option():
    assert (OPTIONS["size"].about, OPTIONS["size"].range.words) == ("how large", "one of few, many")
    assert (OPTIONS["size"].heading, OPTIONS["model"].about) == ("shared", "a name, or a network, in two lines")
    assert (OPTIONS["model"].default, OPTIONS["count"].default, OPTIONS["names"].default) == (MISSING, 3, ["a"])
    assert [metavar(OPTIONS[name].kinds[0]) for name in ("count", "file", "widths")] == ["N", "PATH", "NAME=N"]


INF = float("inf")


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        ({"gt": 0}, "above 0", [1e-9, 1e9], [0.0, -1.0, INF, float("nan")]),
        ({"ge": 1}, "1 or more", [1, 2], [0, INF]),
        ({"ge": 0, "le": 1}, "0 to 1", [0.0, 1.0], [-0.1, 1.1, float("nan")]),
        ({"ge": 0, "lt": 1}, "0 or more and below 1", [0.0, 0.99], [1.0, -0.1]),
        ({"gt": 0, "lt": 1}, "above 0 and below 1", [0.5], [0.0, 1.0]),
        ({"gt": 0, "le": 1, "noun": "a share"}, "a share above 0 and up to 1", [1.0], [0.0, 1.5]),
    ],
)
def test_an_interval_says_and_holds_its_bounds(bounds, words, inside, outside):
    found = interval(**bounds)
    assert (found.words, [found.holds(x) for x in inside]) == (words, [True] * len(inside))
    assert [found.holds(x) for x in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": -8}, "`count` must be -7 or more, not -8."),
        ({"count": "x"}, "`count` must be -7 or more, not x."),
        ({"size": "mamy"}, "`size` must be one of few, many, not mamy. Did you mean `many`?"),
        ({"count": np.arange(2)}, "`count` must be -7 or more, not [0 1]."),
        ({"rate": torch.ones(2)}, "`rate` must be a number, or none, not tensor([1., 1.])."),
        ({"file": 3}, "`file` must be a path, or none, not 3."),
        ({"names": [None]}, "`names` must be a list of texts, not [None]."),
        ({"count": 2.5}, "`count` must be an integer, not 2.5."),
        ({"count": True}, "`count` must be an integer, not True."),
        ({"mixed": "no"}, "`mixed` must be true or false, not 'no'."),
        ({"mixed": None}, "`mixed` must be true or false, not None."),
        ({"drops": [2.5]}, "`drops` must be a list of integers, not [2.5]."),
        ({"widths": {"a": 2.5}}, "`widths` must be a mapping of names to integers (NAME=N), or none, not {'a': 2.5}."),
    ],
)
def test_a_record_checks_ranges_and_types_when_it_is_made(options, says):
    with pytest.raises(OptionError) as caught:
        Every(model="m", **options)
    assert str(caught.value) == says


def test_a_record_holds_numbers_of_numpy_as_those_of_python():
    given = {"count": 2, "rate": 0.5, "drops": (1, 2), "betas": [0.5], "clip": 0.25, "widths": {"a": 3}}
    numpy = {"count": np.int64(2), "rate": np.float32(0.5), "drops": (np.int32(1), 2), "betas": [np.float16(0.5)]}
    numpy |= {"clip": np.float32(0.25), "widths": {"a": np.int64(3)}, "mixed": np.True_}
    given |= {"mixed": True}
    found = Every(model="m", **numpy)
    assert found == Every(model="m", **given)
    assert json.loads(json.dumps(found.options()))["widths"] == {"a": 3}


def test_a_record_does_not_change_and_is_a_key():
    given, network = Base(size="many"), torch.nn.Identity()
    for change in (lambda: setattr(given, "size", "few"), lambda: delattr(given, "size")):
        with pytest.raises(AttributeError, match="cannot assign `size`: options do not change"):
            change()
    assert {given: 1}[Base(size="many")] == 1
    assert Base() not in {given}
    assert Every(model="a", widths={"a": 3}) in {Every(model="a", widths={"a": 3})}
    assert Every(model=network).model is network  # which no text can express


def test_every_field_of_a_job_is_an_option_with_a_text():
    options = options_of(Job)
    in_python = {"loss", "metric", "higher_is_better", "outputs"}
    assert list(options) == [name for name in inspect.signature(Job).parameters if name not in in_python]
    assert [name for name, option in options.items() if not option.about or "None" in option.about] == []


def test_a_field_that_no_text_can_stand_for_is_an_error_of_ours():
    with pytest.raises(TypeError, match=r"Wrong\.phase: <class 'complex'> cannot be an option"):
        type("Wrong", (Options,), {"__annotations__": {"phase": complex}})


def test_spellings_and_typos():
    assert {field_name(key) for key in ("plan", "--plan", "plan-file", "--plan-file", "plan_file")} == {"plan_file"}
    assert closest("csgd-epoch", ["csgd-lr", "csgd-epochs"]) == " Did you mean `csgd-epochs`?"
    assert closest("xyz", ["csgd-lr"]) == ""
