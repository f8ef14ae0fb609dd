"""Options come from the fields of a dataclass: what each may be, from a recipe and from a command line."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from helpers.every_option import Every

from fxprune.errors import OptionError
from fxprune.passes.options.fields import closest, field_name, options_of
from fxprune.passes.options.job import Job
from fxprune.passes.options.kinds import Many, Named, One, kinds_of, metavar

OPTIONS = options_of(Every)


@pytest.mark.parametrize(
    ("annotation", "kinds", "optional"),
    [
        ("int", [One(int)], False),
        ("str | None", [One(str)], True),
        ("str | nn.Module", [One(str)], False),
        ("str | os.PathLike[str] | None", [One(os.PathLike)], True),
        ("Sequence[float] | str | None", [Many(float)], True),
        ("str | Sequence[float]", [Many(float)], False),  # text last: every word is text
        ("tuple[int, ...]", [Many(int)], False),
        ("list[str]", [Many(str, list)], False),
        ("Mapping[str, int] | None", [Named(int)], True),
        ("complex", [], False),
        ("tuple[int, str]", [], False),
    ],
)
def test_kinds_of_an_annotation(annotation, kinds, optional):
    found, none = kinds_of(annotation)
    assert (list(found[: len(kinds)]), none) == (kinds, optional)
    assert list(found[len(kinds) :]) == [One(str)] * (len(found) - len(kinds))


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


def test_the_docstring_is_the_help():
    assert OPTIONS["size"].about == "how large, one of few, many; see fxprune.plan."
    assert OPTIONS["model"].about == "a name, or a network, in two lines."
    assert (OPTIONS["model"].required, OPTIONS["count"].required, OPTIONS["names"].default) == (True, False, ["a"])
    assert [metavar(OPTIONS[name].kinds) for name in ("count", "file", "widths")] == ["N", "PATH", "NAME=N"]


def test_every_field_of_a_job_is_an_option_with_a_text():
    options = options_of(Job)
    assert list(options) == list(Job.__dataclass_fields__)
    assert [name for name, option in options.items() if not option.about] == []


def test_a_field_that_no_text_can_stand_for_is_an_error_of_ours():
    @dataclass
    class Wrong:
        phase: complex = 0j

    with pytest.raises(TypeError, match=r"Wrong\.phase: complex cannot be an option"):
        options_of(Wrong)


def test_spellings_and_typos():
    assert {field_name(key) for key in ("plan", "--plan", "plan-file", "--plan-file", "plan_file")} == {"plan_file"}
    assert closest("csgd-epoch", ["csgd-lr", "csgd-epochs"]) == " Did you mean `csgd-epochs`?"
    assert closest("xyz", ["csgd-lr"]) == ""
