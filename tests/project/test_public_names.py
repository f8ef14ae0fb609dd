"""``dir(fxprune)`` is what is public; every public function has an example, and every example runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import fxprune
from fxprune import errors

FUNCTIONS = sorted(name for name in fxprune.__all__ if inspect.isfunction(getattr(fxprune, name)))


def test_dir_lists_what_is_public():
    assert dir(fxprune) == sorted([*fxprune.__all__, "__version__"])
    assert {name for name in vars(errors) if name.endswith(("Error", "Warning"))} <= set(dir(fxprune))
    assert {"Coupling", "Group", "Plan", "Csgd", "Report", "Proof"} <= set(dir(fxprune))


def test_type_checkers_are_told_the_same_names():
    tree = ast.parse(Path(fxprune.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert told == fxprune._PUBLIC


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_an_example_that_runs(name, tmp_path, monkeypatch, capsys, forked):
    monkeypatch.chdir(tmp_path)
    function = getattr(fxprune, name)
    (case,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert case.examples, f"fxprune.{name} has no example"
    doctest.DocTestRunner().run(case)
    assert capsys.readouterr().out == ""


ROOT = Path(fxprune.__file__).resolve().parents[1]
MODULES = sorted(
    ".".join((*(() if folder == "fxprune" else ("fxprune",)), *path.relative_to(ROOT).with_suffix("").parts))
    for folder in ("fxprune", "passes", "models_zoo", "cli")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_of_what_is_not_public_runs_too(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    public = {getattr(fxprune, each) for each in FUNCTIONS}
    for case in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        if all(inspect.unwrap(each).__qualname__ != case.name.removeprefix(f"{name}.") for each in public):
            doctest.DocTestRunner().run(case)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "moved", ["snap.snap", "narrow.narrow", "cluster.plan", "export_onnx.export_onnx", "prove.prove"]
)
def test_the_module_of_a_verb_is_found_where_it_was(moved):
    module, _, name = moved.partition(".")
    found = importlib.import_module(f"fxprune.passes.{module}")
    assert getattr(found, name) is getattr(fxprune, name)
    assert found.__spec__.name == found.__name__  # of where it is now
