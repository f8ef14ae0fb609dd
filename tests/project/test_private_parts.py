"""Private parts of PyTorch are named in one file, fxprune/pytorch/torch_private.py; those of timm beside it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {package: ROOT / "fxprune" / "pytorch" / f"{package}_private.py" for package in ("torch", "timm")}
FOLDERS = ("fxprune", "passes", "models_zoo", "cli", "benchmarks", "examples")
# Names of objects of PyTorch in our sources, whose attributes are PyTorch's.
THEIRS = {"torch", "fx", "nn", "func", "operator", "layer", "module", "program", "graph", "context"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_parts(source):
    """Private modules, names and attributes of PyTorch, and modules and names of timm, that a source text names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in HOMES:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.module}: {name}" for name in names if is_private(name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            path = ast.unparse(node).split(".")
            if (path[0] in THEIRS and path[1] != "ops") or node.attr == "_schema":
                yield ast.unparse(node)


def test_private_parts_stand_in_one_file():
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}: {part}"
        for path in sources
        if path not in HOMES.values()
        for part in private_parts(path.read_text(encoding="utf-8"))
    }
    assert found == set()
    counts = {package: len(set(private_parts(home.read_text(encoding="utf-8")))) for package, home in HOMES.items()}
    assert counts["torch"] > 10 and counts["timm"] > 1, counts


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from torch.utils import _pytree as pytree", 1),
        ("from torch._ops import OpOverload", 1),
        ("from timm.models import _builder, is_model", 1),
        ("from torch.utils.flop_counter import FlopCounterMode", 0),
        ("torch._C._set_grad_enabled(True)", 2),
        ("call.op._schema", 1),
        ("module._buffers", 1),
        ("self._buffers", 0),
        ("module.__dict__", 0),
        ("torch.ops.aten._softmax", 0),
    ],
)
def test_the_search_finds_what_it_looks_for(source, count):
    assert len(list(private_parts(source))) == count
