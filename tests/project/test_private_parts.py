"""Private parts of PyTorch are named in one folder, fxprune/pytorch/torch_private; those of timm beside it."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from fxprune.pytorch.torch_private import registered_names

ROOT = Path(__file__).resolve().parents[2]
HOMES = {
    "torch": sorted((ROOT / "fxprune" / "pytorch" / "torch_private").glob("*.py")),
    "timm": [ROOT / "fxprune" / "pytorch" / "timm_private.py"],
}
FOLDERS = ("fxprune", "passes", "models_zoo", "cli", "benchmarks", "examples")
# Names of objects of PyTorch in our sources, whose attributes are PyTorch's.
THEIRS = {"torch", "fx", "nn", "func", "operator", "layer", "module", "program", "graph", "context"}
# Names that PyTorch keeps to itself, which code may also write as text: of objects, modules, and prefixes of some.
HOLDERS = (
    *map(dir, (torch, torch.Tensor, nn.Parameter, nn.Module, fx.Proxy, fx.GraphModule, fx.Graph)),
    *map(vars, (nn.LSTM(1, 1), fx.symbolic_trace(nn.Identity()), torch.autocast("cpu"))),
    [module.name for module in pkgutil.iter_modules(torch.__path__)],
    ["_foreach", "_fsdp_wrapped_module", "_is_impure", "_is_param", "_node", "_orig_mod", "_schema", "_tensor_name"],
    ["_graphmodule_cls_name", "_graphmodule_graph_node_meta_stack_trace"],
)
# Operators are known by their names, which any code may write.
OPERATORS = {name.partition("::")[2].partition(".")[0] for name in registered_names()} - {"_version"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


NAMES = {name for holder in HOLDERS for name in holder if is_private(name)} - OPERATORS


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


def private_names(source):
    """Names that PyTorch keeps to itself, as a text or as an attribute of any object but one of the code's own."""
    tree = ast.parse(source)
    pieces = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            yield from [node.value] if node.value in NAMES or node.value.startswith("torch._") else []
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            own = ast.unparse(node.value).startswith(("self", "cls", "super()", "torch.ops."))
            yield from [] if own else [ast.unparse(node)]


def test_no_private_name_stands_outside_of_the_folder():
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): names
        for path in sources
        if path not in HOMES["torch"] and (names := [*private_names(path.read_text(encoding="utf-8"))])
    }
    assert found == {}
    assert len({name for home in HOMES["torch"] for name in private_names(home.read_text(encoding="utf-8"))}) > 40


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('getattr(layer, "_is_impure", False)', 1),
        ('KEPT = frozenset({"_base", "_is_view", "grad_fn"})', 2),
        ('"torch._dynamo.exc"', 1),
        ("net._modules[name]", 1),
        ("own._is_param", 1),
        ("self._parameters", 0),
        ('f"{name}_enabled"', 0),
        ('"_softmax", torch.ops.aten._softmax', 0),
        ('"_ours"', 0),
    ],
)
def test_the_search_finds_private_names(source, count):
    assert len(list(private_names(source))) == count


def test_private_parts_stand_in_one_folder():
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}: {part}"
        for path in sources
        if path not in [home for homes in HOMES.values() for home in homes]
        for part in private_parts(path.read_text(encoding="utf-8"))
    }
    assert found == set()
    counts = {
        package: len({part for home in homes for part in private_parts(home.read_text(encoding="utf-8"))})
        for package, homes in HOMES.items()
    }
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
