"""A recipe says what flags say, is refused with the line that is wrong, and repeats a run."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace

import pytest
from helpers.jobs.options import Every

from fxprune.errors import OptionError
from fxprune.passes.options import FoldJob
from fxprune.passes.options.job import Job
from fxprune.passes.options.recipe import find_recipe, read_notes, read_recipe, write_recipe


def written(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


def test_a_recipe_is_a_job(tmp_path):
    path = written(
        tmp_path,
        """
        description: half of it
        model: resnet56
        data: digits
        csgd-epochs: 600  # dashes
        batch_size: 64    # or underscores
        lr: 3e-2
        strength: 1e-3
        pretrained: false
        widths: {conv1.weight: 10}
        plan: null
        published: {macs_cut: 60.85, top1: null, source: a paper}
        """,
    )
    assert Job(**read_recipe(path)) == Job(
        model="resnet56", data="digits", csgd_epochs=600, lr=0.03, strength=0.001, widths={"conv1.weight": 10}
    )
    assert read_notes(path) == {
        "description": "half of it",
        "published": {"macs_cut": 60.85, "top1": None, "source": "a paper"},
    }


WRONG = {
    "unknown": ("lr: 1\ncsgd-epoch: 3", "a.yaml, line 2: there is no option `csgd-epoch`. Did you mean `csgd-epochs`?"),
    "not alike": ("xyz: 3", "a.yaml, line 1: there is no option `xyz`."),
    "gone": (
        "macs: 0.5\nallocate: auto",
        "a.yaml, line 2: the option `allocate` is gone: every group keeps the same share of its channels",
    ),
    "type": ("lr: 1\n\nbatch-size: lots", "a.yaml, line 3: `batch-size` must be an integer, not 'lots'."),
    "quoted": ("lr: '0.1'", "a.yaml, line 1: `lr` must be a number, not '0.1'."),
    "yes": ("pretrained: yes", "a.yaml, line 1: `pretrained` must be true or false, not 'yes'."),
    "octal": ("epochs: 010", "a.yaml, line 1: `epochs` must be an integer, or none, not '010'."),
    "twice": ("lr: 1\nlr: 1", "a.yaml, line 2: `lr` was given on line 1 already."),
    "twice, spelt apart": ("csgd-lr: 1\ncsgd_lr: 2", "a.yaml, line 2: `csgd_lr` was given on line 1 already."),
    "twice inside": ("widths:\n  a: 1\n  a: 2", "a.yaml, line 3: `a` is given twice."),
    "null": ("lr: null", "a.yaml, line 1: `lr` must be a number, not None."),
    "list": ("- lr", "a.yaml, line 1: expected lines of `flag: value`."),
    "text": ("lr", "a.yaml, line 1: expected lines of `flag: value`."),
    "broken": ("lr: [1", "a.yaml, line 1: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'."),
    "two": (
        "lr: 1\n---\nlr: 2",
        "a.yaml, line 2: expected a single document in the stream, but found another document.",
    ),
    "code": ("lr: !!python/object/apply:os.getcwd []", "a.yaml, line 1: tags (`!`) are not read."),
    "merged": ("widths: {<<: {a: 1}, b: 2}", "a.yaml, line 1: `widths` must be a mapping of names to integers"),
    "list as key": ("widths: {[1]: 2}", "a.yaml, line 1: a key must be a scalar."),
    "alias": ("widths: &a {a: 1}\nonly: *a", "a.yaml, line 1: anchors (`&`) and aliases (`*`) are not read."),
    "number as tag": ("lr: !!float x", "a.yaml, line 1: tags (`!`) are not read."),
    "a table of data": (
        "1,2\n" * (1 << 18) + "\n",
        "a.yaml is no text that can be read: it is larger than 1048576 bytes.",
    ),
    "deep": ("lr: " + "[" * 5000, "a.yaml, line 1: it is nested deeper than 64 levels."),
    "long": ("lr: " + "1" * 5000, "a.yaml, line 1: a number of 5000 digits."),
    "surrogate": ('model: "\\ud800"', "a.yaml is no text that can be read: it holds text that cannot be shown"),
    "escape": ('model: "\\e[2J"', "a.yaml is no text that can be read: it holds text with control characters"),
    "a tab": ("lr: 1\n\tseed: 1", "found character '\\t' that cannot start any token. Indent with spaces."),
    "control": ("lr: \x00", "a.yaml is no YAML: unacceptable character"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(tmp_path, case):
    text, says = WRONG[case]
    with pytest.raises(OptionError) as caught:
        read_recipe(written(tmp_path, text))
    assert says in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"lr: \xff")
    with pytest.raises(OptionError, match=r"a\.yaml is no text"):
        read_recipe(tmp_path / "a.yaml")


def test_an_empty_recipe_has_no_options(tmp_path):
    assert read_recipe(written(tmp_path, "# nothing\n")) == {}


def test_recipes_of_earlier_versions_say_what_is_always_done(tmp_path):
    assert read_recipe(written(tmp_path, "macs: 0.5\nallocate: uniform")) == {"macs": 0.5}


def test_a_recipe_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "resnet56_cifar10.yaml").write_text("lr: 1")
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    assert read_recipe("resnet56_cifar10") == {"lr": 1.0}
    with pytest.raises(OptionError, match=r"no recipe `resnet56_cifar1`.* Did you mean `resnet56_cifar10`\?"):
        find_recipe("resnet56_cifar1")


EVERY = [
    Every(model="resnet20"),
    Every(
        size="many",
        model="1e3",
        count=-7,
        rate=1e-30,
        mixed=True,
        loud=False,
        file="a: b # c",
        drops=(200, 400),
        betas=(0.9, 1e22),
        names=["true", "no", "", "null", "1e-3", "010", "a\nb", "ä", "*x"],
        stages=(13 / 16, 11 / 16, 5 / 8),
        clip=True,
        widths={"layer1.0.conv1.weight": 10, "1": 2},
    ),
    Every(model="~", stages="auto", clip=float("inf"), names=[], widths={}),
]


@pytest.mark.parametrize("job", EVERY, ids=["defaults", "all", "odd"])
def test_a_written_recipe_gives_an_equal_job(tmp_path, job):
    write_recipe(job, tmp_path / "recipe.yaml")
    options = read_recipe(tmp_path / "recipe.yaml", Every)
    assert Every(**options) == job
    assert options.keys() == vars(job).keys()  # resolved: defaults of another version do not matter
    types = {name: type(value) for name, value in options.items()}
    assert types == {name: type(getattr(job, name)) for name in types}


def test_the_recipe_of_a_job_repeats_it(tmp_path):
    job = Job(model="resnet20", data="digits", output=tmp_path / "out", macs=0.4, deviation=1e-5, epochs=None)
    write_recipe(job, tmp_path / "recipe.yaml")
    again = Job(**read_recipe(tmp_path / "recipe.yaml"))
    assert again == job.replace(output=str(job.output))


def test_a_network_given_in_python_must_be_named_by_flags(tmp_path):
    write_recipe(Every(model=object()), tmp_path / "recipe.yaml")
    assert "\n# model: was given in Python, as object; name one with --model" in (tmp_path / "recipe.yaml").read_text()
    assert "model" not in read_recipe(tmp_path / "recipe.yaml", Every)


def test_functions_given_in_python_are_told_by_name(tmp_path):
    job = Job(model="resnet20", data="digits", loss=len, metric=len, outputs="mask")
    write_recipe(job, tmp_path / "recipe.yaml")
    told = re.findall(
        r"^# ([a-z-]+): was given in Python, as (\w+); (.*)", (tmp_path / "recipe.yaml").read_text(), re.M
    )
    python = "only Python can give it again"
    kind = type(len).__name__
    assert told == [("loss", kind, python), ("metric", kind, python), ("outputs", "str", python)]
    assert Job(**read_recipe(tmp_path / "recipe.yaml")) == Job(model="resnet20", data="digits")


@pytest.mark.parametrize("address", ["evil:f", "a.b:make.net", "net.pt2"])
@pytest.mark.parametrize(
    ("kind", "flag", "more"), [(Job, "--model", {"data": "digits"}), (FoldJob, "MODEL", {})], ids=["compress", "fold"]
)
def test_a_network_that_runs_code_must_be_repeated_beside_the_recipe(tmp_path, kind, flag, more, address):
    write_recipe(kind(model=address, **more), file := tmp_path / "recipe.yaml")
    assert f"\n# model: runs code of whoever wrote it; repeat it with {flag}\n" in file.read_text()
    with pytest.raises(OptionError, match=rf"recipe.yaml, line 3: the network `{address}` .* as {flag} {address}\."):
        read_recipe(file, kind)
    assert read_recipe(file, kind, model=address)["model"] == address
    assert "model" not in read_recipe(file, kind, model="resnet20")
