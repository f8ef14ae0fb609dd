"""The first line of every docstring is one short sentence, or a formula."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fxprune", "passes", "models_zoo", "cli", "benchmarks", "examples")
LONGEST = 90
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def first_lines(source):
    """Line number -> the first line of each docstring in a source text."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _DOCUMENTED) and ast.get_docstring(node)]
    return {node.body[0].lineno: ast.get_docstring(node).partition("\n")[0] for node in nodes}


def faults(line):
    """What is wrong with a first line."""
    if len(line) > LONGEST:
        yield f"{len(line)} characters"
    if not line.endswith("."):
        yield "no end"


@pytest.mark.parametrize("folder", FOLDERS)
def test_first_lines_are_short_sentences(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}:{number}: {fault}: {line}"
        for path in paths
        for number, line in first_lines(path.read_text(encoding="utf-8")).items()
        for fault in faults(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Snap sets the members of every cluster to their mean.", []),
        ("shift = x - mean.", []),
        ("Snap the members of a cluster", ["no end"]),
        (f"{'x' * LONGEST}.", ["91 characters"]),
    ],
)
def test_the_search_finds_what_it_looks_for(line, found):
    source = f'def f():\n    """{line}\n\n    {"y" * 200}\n    """\n'
    assert [fault for each in first_lines(source).values() for fault in faults(each)] == found
