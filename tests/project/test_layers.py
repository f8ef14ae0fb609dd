"""A room imports only rooms below it, and of them only what their ``__init__`` hands out; there is no circle."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]
_TABLE = re.findall(r"^\| \d+ \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.M)
LAYERS = [re.findall(r"`([\w.]+)`", rooms) for rooms in _TABLE]  # from the ground up
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
# Rooms whose files are imported one by one: each is a concept of its own.
OPEN = {"fxprune.common", "fxprune.pytorch", "fxprune.arguments", "benchmarks", "fxprune.cli", "examples"}
# Rooms inside a room, with a door of their own. To the files around it, such a room is like one file.
INNER = {
    "fxprune.analysis.groups", "fxprune.analysis.lengths", "fxprune.analysis.rules", "fxprune.capture.tracing",
    "fxprune.equivalence.programs", "fxprune.pytorch.meta", "fxprune.pytorch.torch_private",
    "fxprune.passes.rewrite.axes",
}  # fmt: skip
# Break what is inside of a room on purpose, to see it found.
BREAKS = {"benchmarks.fuzz.folders", "benchmarks.fuzz.networks", "benchmarks.fuzz.subjects"}
# Hand things on, lazily or as a program: what they import is not of their own. Only the top floor goes through them.
FACES = {"fxprune", "fxprune.__main__", "fxprune.passes"}
VERSION = "fxprune.__version__"


@functools.cache
def modules():
    """Dotted name -> path, for everything but the tests."""
    found = {}
    for folder in ("fxprune", "passes", "models_zoo", "cli", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = ("fxprune", *parts) if folder in ("passes", "models_zoo", "cli") else parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return Modules(found)


class Modules(dict):
    __hash__ = object.__hash__


def room_of(name):
    """The room that a module lies in: the longest name of ``LAYERS`` that it begins with."""
    return _longest(FLOOR, name)


def inner_room_of(name):
    """The room of ``INNER`` that a module lies in, or None."""
    return _longest(INNER, name)


def _longest(rooms, name):
    return max((room for room in rooms if name == room or name.startswith(f"{room}.")), key=len, default=None)


@functools.cache
def handed(room, known):
    """Names that the ``__init__`` of a room hands out."""
    path = known.get(room)
    tree = ast.parse(path.read_text(encoding="utf-8") if path and path.name == "__init__.py" else "")
    return {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def imported(name, source, known, is_package):
    """(module, whether in ``if TYPE_CHECKING``) of ours that a source text imports, from the top or in a function."""
    tree = ast.parse(source)
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and _last_name(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            base = base.rstrip(".")
            names = [base if alias.name in handed(base, known) else f"{base}.{alias.name}" for alias in node.names]
            names = [each if each in known or each == VERSION else base for each in names]
        elif isinstance(node, ast.Call) and _last_name(node.func).endswith(("import_module", "__import__")):
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        else:
            continue
        for each in names:
            if each.partition(".")[0] in ("fxprune", "benchmarks", "examples") and each != VERSION:
                yield each, id(node) in typing


def _last_name(node):
    return getattr(node, "attr", getattr(node, "id", ""))


@functools.cache
def arrows():
    known = modules()
    return [
        (name, other, typing)
        for name, path in known.items()
        if name not in FACES
        for other, typing in imported(name, path.read_text(encoding="utf-8"), known, path.name == "__init__.py")
    ]


def faults(every):
    """What the arrows do that none may."""
    for name, other, typing in every:
        here, there, inner = room_of(name), room_of(other), inner_room_of(other)
        if inner not in (None, other, inner_room_of(name)):
            yield f"{name} -> {other}: past the door of {inner}"
            continue
        if here == there or (other in FACES and here in LAYERS[-1]):
            continue
        if other in FACES:
            yield f"{name} -> {other}: around the layers"
        elif here is None or there is None:
            yield f"{name} -> {other}: is in no layer"
        elif FLOOR[there] >= FLOOR[here] and not typing:
            yield f"{name} -> {other}: upward"
        elif other != there and there not in OPEN and name not in BREAKS:
            yield f"{name} -> {other}: past the door of {there}"


def test_every_folder_is_in_the_table():
    rooms = {room_of(name) for name in modules() if name not in FACES}
    assert rooms == set(FLOOR) and len(LAYERS) > 10


def test_no_import_goes_up_or_past_a_door():
    assert len(modules()) > 150
    assert list(faults(arrows())) == []


def circles(every, unit=str):
    """Circles of imports among files, or among units of files, in each of which files may be in a circle."""
    known = modules()
    graph = nx.DiGraph((name, other) for name, other, typing in every if not typing and name != other)
    inside = [
        (unit(a), unit(b))
        for a, b in graph.edges
        if known[b].name != "__init__.py" or room_of(a) != room_of(b) or unit(b) in INNER
    ]
    return [*nx.simple_cycles(nx.DiGraph((a, b) for a, b in inside if a != b))]


def _as_one_file(name):
    return inner_room_of(name) or name


def test_no_files_import_each_other_in_a_circle():
    assert circles(arrows()) == []


def test_no_circle_goes_through_an_inner_room():
    assert modules().keys() >= INNER
    assert circles(arrows(), _as_one_file) == []
    back = ("fxprune.equivalence.watch", "fxprune.equivalence.programs", False)  # which imports the file
    assert any({*back[:2]} <= {*circle} for circle in circles([*arrows(), back], _as_one_file))


def seen(room):
    """Files around an inner room that its docstring names, and those that it imports."""
    text = ast.get_docstring(ast.parse(modules()[room].read_text(encoding="utf-8")))
    named = set(re.findall(r"``(\w+)``", text.partition("\n\nIt sees ")[2]))
    around = room.rpartition(".")[0]
    found = {other for name, other, typing in arrows() if inner_room_of(name) == room and not typing}
    return named, {
        other.removeprefix(f"{around}.").partition(".")[0]
        for other in found
        if other.startswith(f"{around}.") and inner_room_of(other) != room
    }


@pytest.mark.parametrize("room", ["groups", "lengths", "rules"])
def test_inner_rooms_of_the_analysis_say_what_they_see(room):
    named, found = seen(f"fxprune.analysis.{room}")
    assert named == found and found


def test_benchmarks_meet_at_their_doors_and_in_no_circle():
    known = modules()
    rooms = {name for name, path in known.items() if name.startswith("benchmarks.") and path.name == "__init__.py"}

    def inner(name):
        return max((room for room in rooms if f"{name}.".startswith(f"{room}.")), key=len, default="benchmarks")

    across = {
        (name, other)
        for name, other, _ in arrows()
        if name.startswith("benchmarks.") and other.startswith("benchmarks") and inner(name) != inner(other)
    }
    inside = {other for _, other in across if inner(other) != "benchmarks" and not other.endswith("__main__")}
    assert len(inside) > 5 and inside <= rooms
    graph = nx.DiGraph((inner(name), inner(other)) for name, other in across)
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from fxprune.passes.csgd import csgd", ["upward"]),
        ("def f():\n    import fxprune.passes.job", ["upward"]),
        ("def f():\n    import fxprune\n    fxprune.compress()", ["around the layers"]),
        ("f = importlib.import_module('fxprune').compress", ["around the layers"]),
        ("importlib.import_module('fxprune.passes.job')", ["upward"]),
        ("from fxprune import __version__", []),
        ("if TYPE_CHECKING:\n    from fxprune.passes.job import compress", []),
        ("from fxprune.passes.merge import snap", []),
        ("from fxprune.arguments.inputs import run_on", []),
        ("from fxprune.passes.merge.clusters import project", ["past the door of fxprune.passes.merge"]),
        ("from .narrow import narrow", []),
        ("from ..merge import clusters", ["past the door of fxprune.passes.merge"]),
    ],
)
def test_the_search_finds_what_it_looks_for(source, found):
    known = modules()
    name = "fxprune.passes.rewrite.graph"
    every = [(name, other, typing) for other, typing in imported(name, source, known, False)]
    assert [fault.partition(": ")[2] for fault in faults(every)] == found


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("fxprune.capture.trace", "from .tracing import SymbolicTracer", []),
        ("fxprune.capture.trace", "from .tracing.symbolic_trace import SymbolicTracer", ["fxprune.capture.tracing"]),
        ("fxprune.capture.trace", "from .tracing import keys", ["fxprune.capture.tracing"]),
        ("fxprune.capture.tracing.keys", "from .symbolic_trace import SymbolicTracer", []),
        ("fxprune.capture.tracing.keys", "from ..decompositions import decomposition", []),
        ("fxprune.equivalence.programs.layers", "from fxprune.pytorch.meta import run_meta", []),
        ("fxprune.equivalence.programs.layers", "from fxprune.pytorch.meta.kernels import a", ["fxprune.pytorch.meta"]),
    ],
)
def test_the_search_finds_the_door_of_an_inner_room(name, source, found):
    known = modules()
    every = [(name, other, typing) for other, typing in imported(name, source, known, False)]
    assert list(faults(every)) == [f"{name} -> {every[0][1]}: past the door of {room}" for room in found]
