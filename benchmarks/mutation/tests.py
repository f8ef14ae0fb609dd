"""Find the tests that run a line, and run them on a mutant, in forks of one collection."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import itertools
import json
import os
import select
import signal
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from _pytest.runner import runtestprotocol
from tqdm import tqdm

from benchmarks import ROOT

from .operators import Mutant, mutated

# A test that takes longer than this is left out.
MOST_SECONDS = 8.0
# A test that takes this much longer than without a mutant, in time of the processor, has a loop that does not end.
SLOWER, SPARE_SECONDS = 5.0, 5.0
PACKAGES = {"fxprune": "fxprune", "passes": "fxprune.passes"}
Lines = dict[tuple[str, int], list[str]]
T = TypeVar("T")
tqdm.monitor_interval = 0  # a thread of its own would be lost in a fork


class Session:
    """Pytest with all tests collected, for the ``with`` block inside :func:`with_tests`."""

    def __init__(self, session: pytest.Session) -> None:
        self.items = {item.nodeid: item for item in session.items}

    def passes(self, name: str) -> bool:
        """Run one test."""
        reports = runtestprotocol(self.items[name], log=False, nextitem=None)
        return all(report.passed or report.skipped for report in reports)

    def lines_run(self, name: str, seen: set[tuple[str, int]], most: float) -> str:
        """Run a test; return as JSON whether it passes, its lines, and its seconds."""
        _limit(most)
        start = time.process_time()
        passed = self.passes(name)
        lines = defaultdict[str, list[int]](list)
        for path, line in sorted(seen):
            lines[path].append(line)
        return json.dumps([passed, lines, time.process_time() - start])


class _Tell(ast.NodeTransformer):
    """Put ``__seen__(((path, line), ...))`` in front of every statement of every function."""

    def __init__(self, path: str) -> None:
        self.path = path

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Tell of the statements inside, nested ones too."""
        for each in ast.walk(node):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(each, name, None)
                if isinstance(block, list):
                    setattr(each, name, [told for statement in block for told in (self._tell(statement), statement)])
        return node

    def _tell(self, statement: ast.stmt) -> ast.stmt:
        body = getattr(statement, "body", None)  # of what has one, only the head runs for certain
        last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno or statement.lineno
        places = tuple((self.path, line) for line in range(statement.lineno, last + 1))
        told = ast.parse(f"__seen__({places!r})").body[0]
        for each in ast.walk(told):
            ast.copy_location(each, statement)
        return told


SEEN: set[tuple[str, int]] = set()


def with_tests(files: Sequence[str], use: Callable[[Session], None]) -> None:
    """Collect the tests of some files and call ``use`` with them."""

    class Plugin:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            use(Session(session))
            return True

    options = ["-o", "addopts=", "-n", "0", "-p", "no:cacheprovider", "-p", "no:terminal", "--capture", "no"]
    code = pytest.main([*options, *(str(ROOT / "tests" / name) for name in files)], plugins=[Plugin()])
    if code not in (0, 5):
        raise RuntimeError(f"pytest ended with {code}: the tests could not be collected")


def lines_of(
    names: Sequence[str], session: Session, paths: Iterable[str], jobs: int
) -> Iterator[tuple[str, bool, dict[str, list[int]], float]]:
    """Yield each test, whether it is quick and passes, its lines of each file, its seconds.

    Each runs in a process of its own: what tests keep for one another would make the later ones look quick, and blind
    to a mutant.
    """
    for path in paths:
        _watch(path)
    asked = ((name, functools.partial(session.lines_run, name, SEEN, MOST_SECONDS)) for name in names)
    for name, told, _ in in_forks(tqdm(asked, "lines", len(names), mininterval=10.0), jobs):
        yield name, *json.loads(told or "[false, {}, 0]")
    for path in paths:
        _put(path, compile((ROOT / path).read_text(encoding="utf-8"), str(ROOT / path), "exec"))


def _watch(path: str) -> None:
    """Let the functions of a file tell which lines they run."""
    tree = ast.fix_missing_locations(_Tell(path).visit(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
    vars(importlib.import_module(_module_name(path)))["__seen__"] = SEEN.update
    _put(path, compile(tree, str(ROOT / path), "exec"))


def _put(path: str, code: types.CodeType) -> None:
    """Give the functions and methods of a module the code that they have in ``code``."""
    module = importlib.import_module(_module_name(path))
    for name in _outermost(code):
        _function(module, name.split(".")).__code__ = _code_in(code, name.split("."))


def _outermost(code: types.CodeType) -> Iterator[str]:
    for each in _codes(code):
        if each.co_flags & inspect.CO_NEWLOCALS:
            if not each.co_name.startswith("<"):
                yield each.co_name
        else:
            yield from (f"{each.co_name}.{inner.co_name}" for inner in _codes(each) if inner.co_name[0] != "<")


def trial(session: Session, mutant: Mutant, seconds: Mapping[str, float]) -> Callable[[], str]:
    """Make what runs tests on a mutant, and says ``survived`` or ``killed by NAME``."""
    code = code_of(mutant)  # here, so that a source that is gone ends the run and kills no mutant

    def told() -> str:
        _limit(SPARE_SECONDS)
        try:
            apply(mutant, code)
        except BaseException:
            return "killed by an error while it is loaded"
        killer = next((name for name, took in seconds.items() if not _survives(session, name, took)), None)
        return "survived" if killer is None else f"killed by {killer}"

    return told


def outcome(said: str, ended: int) -> str:
    """Return what a trial said, or the signal that ended it: a crash is no test that fails."""
    return said or ("killed by time" if ended == signal.SIGPROF else f"ended by signal {ended}")


def in_forks(asked: Iterable[tuple[T, Callable[[], str]]], jobs: int) -> Iterator[tuple[T, str, int]]:
    """Yield each key, what its function says in a silent process, and the signal that ended it.

    At most ``jobs`` processes run at once; what ends first comes first.
    """
    waiting, running = iter(asked), dict[int, tuple[T, int, list[bytes]]]()
    while True:
        for key, say in itertools.islice(waiting, jobs - len(running)):
            pipe, child = _fork(say)
            running[pipe] = (key, child, [])
        if not running:
            return
        for pipe in select.select(list(running), [], [])[0]:
            key, child, parts = running[pipe]
            if part := os.read(pipe, 1 << 16):
                parts.append(part)
                continue
            del running[pipe]
            os.close(pipe)
            yield key, b"".join(parts).decode(), os.WTERMSIG(os.waitpid(child, 0)[1])


def _fork(say: Callable[[], str]) -> tuple[int, int]:
    """Return the pipe from which to read what a silent process says, and its number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as pipe:
            pipe.write(say())
        os._exit(0)
    os.close(writing)
    return reading, child


def _limit(seconds: float) -> None:
    """End the process after so much more time of its processor: a busy machine kills no mutant."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _survives(session: Session, name: str, seconds: float) -> bool:
    _limit(SLOWER * seconds + SPARE_SECONDS)
    try:
        return session.passes(name)
    except BaseException:
        return False


def code_of(mutant: Mutant) -> types.CodeType:
    """Compile the file of a mutant with its change."""
    path = ROOT / mutant.path
    return compile(mutated(path.read_text(encoding="utf-8"), mutant.index), str(path), "exec")


def apply(mutant: Mutant, code: types.CodeType) -> None:
    """Apply a mutant in this process: replace one function's code, or execute the module again."""
    module = importlib.import_module(_module_name(mutant.path))
    if mutant.function:
        made = _code_in(code, mutant.function.split("."))
        _function(module, mutant.function.split(".")).__code__ = made
        return
    from fxprune.analysis import RULES

    before = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    for operator, entry in list(RULES.items()):
        if entry.rule.__module__ == module.__name__:
            del RULES[operator]
    exec(code, vars(module))
    for other in [each for name, each in sys.modules.items() if name.partition(".")[0] == "fxprune"]:
        for name, value in list(vars(other).items()):
            if name in before and value is before[name]:
                setattr(other, name, getattr(module, name))


def _module_name(path: str) -> str:
    top, *rest = Path(path).with_suffix("").parts
    return ".".join([PACKAGES[top], *rest]).removesuffix(".__init__")


def _code_in(code: types.CodeType, names: Sequence[str]) -> types.CodeType:
    for name in names:
        code = next(each for each in _codes(code) if each.co_name == name)
    return code


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))


def _function(module: types.ModuleType, names: Sequence[str]) -> Any:
    found: Any = module
    for name in names:
        found = vars(found)[name]
    for inner in ("fget", "func", "__wrapped__", "__func__"):
        found = getattr(found, inner, found)
    return found
