"""No function outside the public API takes more than six parameters: past that, they are a record without a name."""

from __future__ import annotations

import ast
from pathlib import Path

import fxprune

ROOT = Path(__file__).resolve().parents[2]
MOST = 6
# Stand in for functions of PyTorch, whose parameters they must take.
STAND_INS = {
    "fxprune/capture/attention.py:attention",
    "fxprune/capture/attention.py:_attend",
    "fxprune/capture/decompositions.py:_decoder",
    "fxprune/capture/decompositions.py:_transformer",
    "passes/onnx/program.py:_attention",
}


def parameters(function):
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def test_functions_take_six_parameters_at_most():
    long = set()
    for folder in ("fxprune", "passes", "models_zoo", "cli", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and len(parameters(node)) > MOST:
                    long.add(f"{path.relative_to(ROOT)}:{node.name}")
    public = {each for each in long if each.rpartition(":")[2] in fxprune.__all__}
    assert long - public == STAND_INS
