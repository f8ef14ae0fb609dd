"""A room inside the analysis has a door, too, and sees only the files around it that its docstring names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).resolve().parents[2] / "fxprune" / "analysis"
ROOMS = sorted(path.parent.name for path in ANALYSIS.glob("*/__init__.py"))


def door(room):
    """What the ``__init__`` of a room hands out, and the files around it that it names."""
    tree = ast.parse((ANALYSIS / room / "__init__.py").read_text(encoding="utf-8"))
    handed = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    _, _, seen = ast.get_docstring(tree).partition("\n\nIt sees ")
    return handed, set(re.findall(r"``(\w+)``", seen))


DOORS = {room: door(room) for room in ROOMS}


def imported(path, source):
    """(path, name) below the analysis of what a file imports, other than for types alone."""
    tree = ast.parse(source)
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(node) for block in typing for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            base = ["fxprune", "analysis", *path.parts[:-1]]
            base = base[: len(base) - node.level + 1] if node.level else []
            found = [*base, *(node.module.split(".") if node.module else [])]
            if found[:2] == ["fxprune", "analysis"]:
                yield from ((found[2:], alias.name) for alias in node.names)


def faults(path, source):
    """What a file of the analysis imports and may not."""
    here = path.parts[0] if len(path.parts) > 1 else None
    for (*there, last), name in ((module or [""], name) for module, name in imported(path, source)):
        target = [*there, last] if last else [name]
        if here == target[0]:
            continue
        if target[0] in ROOMS and (len(target) > 1 or (last and name not in DOORS[target[0]][0])):
            yield f"past the door of {target[0]}"
        if here is not None and target[0] not in DOORS[here][1]:
            yield f"{here} sees {target[0]}"


def test_every_import_goes_through_a_door_that_it_sees():
    assert ROOMS == ["groups", "lengths", "rules"] and all(handed and seen for handed, seen in DOORS.values())
    paths = sorted(ANALYSIS.rglob("*.py"))
    found = [
        f"{path.relative_to(ANALYSIS)}: {fault}"
        for path in paths
        for fault in faults(path.relative_to(ANALYSIS), path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_doors_hand_out_what_is_imported_and_name_what_is_seen():
    paths = sorted(path.relative_to(ANALYSIS) for path in ANALYSIS.rglob("*.py"))
    every = [(path, *each) for path in paths for each in imported(path, (ANALYSIS / path).read_text(encoding="utf-8"))]
    for room, (_, seen) in DOORS.items():
        assert seen == {module[0] for path, module, _ in every if path.parts[0] == room and module[0] != room}


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("rule_mode.py", "from .rules import Entry", []),
        ("rule_mode.py", "from .rules.registry import Entry", ["past the door of rules"]),
        ("rule_mode.py", "from .rules import registry", ["past the door of rules"]),
        ("rule_mode.py", "def f():\n    from .lengths.factors import is_fixed", ["past the door of lengths"]),
        ("rules/pool.py", "from ..call import Call", []),
        ("rules/pool.py", "from .registry import rule", []),
        ("rules/pool.py", "from ..state import AnalysisState", ["rules sees state"]),
        ("rules/pool.py", "from .. import state", ["rules sees state"]),
        ("rules/pool.py", "from fxprune.analysis.state import AnalysisState", ["rules sees state"]),
        ("rules/pool.py", "if TYPE_CHECKING:\n    from ..state import AnalysisState", []),
        ("lengths/inputs.py", "from ..rules import RULES", ["lengths sees rules"]),
        ("rules/pool.py", "from fxprune.coupling import Coupling", []),
    ],
)
def test_the_search_finds_what_it_looks_for(path, source, found):
    assert list(faults(Path(path), source)) == found
