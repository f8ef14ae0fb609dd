"""A fold is checked when it is made, and a recipe repeats it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fxprune.cli import main
from fxprune.errors import OptionError
from fxprune.passes.options import FoldJob, Job, Target, options_of
from fxprune.passes.options.recipe import override, read_recipe, write_recipe


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "fold trains nothing, and a network with random weights is not worth folding: give `checkpoint` or"),
        ({"checkpoint": "w", "data": "digits", "inputs": ["a"]}, "`data` and `inputs` exclude each other"),
        ({"checkpoint": "w", "data": "digits", "num_classes": 3}, "`data` and `num_classes` exclude each other"),
        ({"checkpoint": "w", "repair": "readers"}, "`repair: readers` needs images without labels: give `data` or"),
        ({"checkpoint": "w", "repair": "statistics"}, "`repair: statistics` needs images without labels"),
        ({"checkpoint": "w", "cluster": "activations"}, "`cluster: activations` needs images without labels"),
        ({"checkpoint": "w", "images": 8}, "`images: 8` needs images without labels"),
        ({"checkpoint": "w", "data": "digits", "images": 0}, "`images` must be 1 to 1024, not 0"),
        ({"checkpoint": "w", "data": "digits", "images": 1025}, "`images` must be 1 to 1024, not 1025"),
        ({"checkpoint": "w", "inputs": []}, "`inputs` must be files of images, or folders with such files"),
        ({"checkpoint": "w", "repair": "magic"}, "`repair` must be one of none, statistics, readers, variance, not"),
        ({"checkpoint": "w", "keep": 0.5, "plan_file": "p"}, "`keep` and `plan_file` exclude each other"),
        ({"checkpoint": "w", "data": "d", "cluster": "rows", "plan_file": "p"}, "`cluster` and `plan_file` exclude"),
        ({"checkpoint": "w", "widths": {"a": 1}, "only": ["a"]}, "`only` and `widths` exclude each other"),
    ],
)
def test_a_fold_is_checked_when_it_is_made(options, says):
    with pytest.raises(OptionError, match=re.escape(says)):
        FoldJob("resnet20", **options)


@pytest.mark.parametrize("kind", [Target, lambda **o: Job("resnet20", "digits", **o)])
@pytest.mark.parametrize("method", ["even", "imbalanced"])
def test_only_kmeans_compares_channels(kind, method):
    with pytest.raises(OptionError, match=f"`cluster: outputs` is for the method kmeans; `{method}` compares nothing"):
        kind(method=method, cluster="outputs")
    assert kind(method=method, cluster="rows").clusters_by == kind(method=method).clusters_by == "rows"
    assert not kind(method=method).needs_images


@pytest.mark.parametrize(
    ("options", "by"),
    [
        ({}, "rows"),
        ({"data": "digits"}, "activations"),
        ({"inputs": "photos"}, "activations"),
        ({"data": "digits", "method": "even"}, "rows"),
        ({"data": "digits", "cluster": "outputs"}, "outputs"),
        ({"data": "digits", "cluster": "rows"}, "rows"),
    ],
)
def test_a_fold_compares_activations_where_there_are_images(options, by):
    assert FoldJob("resnet20", checkpoint="w", **options).clusters_by == by
    assert Job("resnet20", "digits").clusters_by == "activations"


def test_none_is_a_repair_on_the_command_line_and_no_value_elsewhere():
    assert options_of(FoldJob)["repair"].parse(["none"]) == "none"
    assert options_of(FoldJob)["repair"].read(None) is None
    assert options_of(FoldJob)["cluster"].parse(["none"]) is None


def test_the_recipe_of_a_fold_repeats_it(tmp_path):
    job = FoldJob("resnet20", checkpoint="w", inputs=("a", "b"), keep=0.25, repair="none")
    write_recipe(job, tmp_path / "recipe.yaml")
    assert "fxprune fold --recipe recipe.yaml" in (tmp_path / "recipe.yaml").read_text()
    recipe = read_recipe(tmp_path / "recipe.yaml", FoldJob)
    assert FoldJob(**recipe) == job
    given = override(recipe, {"macs": 0.4, "data": "digits"}, FoldJob)
    assert FoldJob(**given) == FoldJob("resnet20", "digits", checkpoint="w", macs=0.4, repair="none")
    timed = override({**given, "macs": None, "latency": 0.5, "runtime": "eager"}, {"macs": 0.4}, FoldJob)
    assert FoldJob(**timed) == FoldJob(**given)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fold", "there is no model: give MODEL"),
        ("fold resnet20", "fold trains nothing"),
        ("fold resnet20 --checkpoint w --repair readers", "needs images without labels"),
        ("fold resnet20 --checkpoint w --data d --cluster row", "Did you mean `rows`?"),
        ("compress --model resnet20 --data digits --cluster outputs --method even", "is for the method kmeans"),
        ("compress --model resnet20 --data digits --cluster rows --plan p", "`cluster` and `plan_file` exclude"),
        ("plan resnet20 --cluster outputs", "`cluster: outputs` needs images without labels: give --data"),
    ],
)
def test_what_cannot_be_is_refused(capsys, line, says):
    try:
        code = main(line.split())
    except SystemExit as ended:  # as argparse does for the value of one flag
        code = ended.code
    assert code == 2 and says in capsys.readouterr().err


def test_and_without_torch():
    code = (
        "import sys; from fxprune.cli import main; main(['fold', 'resnet20']); main(['plan', 'a', '--cluster', "
        "'outputs']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, capture_output=True)


def test_flags_of_a_fold_override_its_recipe(tmp_path, monkeypatch, capsys):
    seen, done = [], SimpleNamespace(text=lambda columns: "done")
    monkeypatch.setattr("fxprune.passes.job.fold_job", lambda **options: seen.append(options) or done)
    write_recipe(FoldJob("resnet20", "digits", checkpoint="w", keep=0.25), tmp_path / "recipe.yaml")
    line = f"fold --recipe {tmp_path / 'recipe.yaml'} --macs 0.5 --repair none --output again"
    assert main(line.split()) == 0
    (options,) = seen
    assert FoldJob(**options) == FoldJob("resnet20", "digits", checkpoint="w", macs=0.5, repair="none", output="again")
    assert "done" in capsys.readouterr().out
