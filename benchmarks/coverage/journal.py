"""Results on disk, one JSON line each, only ever appended: what is there after a crash or a stop is whole."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT

from .result import DEPTHS, Result, result_from

# What a check runs: nothing but this, and what it imports of ours, can change a result.
CHECKED = ("benchmarks.coverage.check", "fxprune.passes.onnx.export")
_RUNS_ON = ("torch", "timm", "onnxruntime")


def digest(files: Iterable[Path]) -> str:
    """Which sources are checked: a hash over the code of files, and the versions of what they run on.

    Comments, docstrings, layout, import lines and the place of a file do not count: they change no result.
    """
    sha = hashlib.sha256(" ".join(version(name) for name in _RUNS_ON).encode())
    for code in sorted({_code(path) for path in files} - {b""}):
        sha.update(code + b"\0")
    return sha.hexdigest()[:12]


class _Bare(ast.NodeTransformer):
    """Takes away what changes no result: imports, docstrings and ``__all__``."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign | None:
        return None if ast.unparse(node.targets[0]) == "__all__" else node


def _code(path: Path) -> bytes:
    return ast.unparse(_Bare().visit(ast.parse(path.read_text(encoding="utf-8")))).encode()


def sources(root: Path = ROOT) -> list[Path]:
    """The files of the core and the passes that a check imports, as a process finds them that does nothing else."""
    script = (
        f"import sys, {', '.join(CHECKED)}\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'fxprune'), sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True)
    return sorted(Path(line).resolve() for line in told.stdout.splitlines() if line)


class Journal:
    """The newest result of each (model, depth)."""

    def __init__(self, path: Path, committed: Iterable[Result] = ()) -> None:
        """Read what is there; a last line that was cut off counts as not written.

        Args:
            path: results of this machine; need not exist.
            committed: results of any machine, which count where they were checked later than those of this one.
        """
        self._path = path
        self._newest: dict[tuple[str, str], Result] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                self._take(result_from(json.loads(line)))
            except (ValueError, TypeError):
                continue
        for result in committed:
            here = self._newest.get((result.model, result.depth))
            if here is None or result.checked > here.checked:
                self._take(result)
        self._separator = "" if not text or text.endswith("\n") else "\n"

    def append(self, result: Result) -> None:
        """Write a result and remember it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(self._separator + json.dumps(result.to_json()) + "\n")
        self._separator = ""
        self._take(result)

    def missing(self, models: Iterable[str], depth: str, sources: str) -> list[str]:
        """Models without a result of these sources; those that failed or were never tried come first."""
        known = self.known(depth)
        found = {model: known.get(model) for model in models}
        todo = [model for model, result in found.items() if result is None or result.digest != sources]
        return sorted(todo, key=lambda model: (result := found[model]) is not None and not result.error)

    def newest(self, depth: str) -> dict[str, Result]:
        """Model -> its newest result of this depth, of whatever sources."""
        return {model: result for (model, on), result in self._newest.items() if on == depth}

    def known(self, depth: str) -> dict[str, Result]:
        """Model -> its newest result of this depth, or of a deeper one that went well: that has done the same."""
        return known_at(depth, {each: self.newest(each) for each in DEPTHS})

    def standing(self) -> dict[str, dict[str, Result]]:
        """Depth -> model -> its newest result, where no deeper check has told the same since."""
        own = {depth: self.newest(depth) for depth in DEPTHS}
        return {
            depth: {model: result for model, result in known_at(depth, own).items() if result is own[depth].get(model)}
            for depth in DEPTHS
        }

    def _take(self, result: Result) -> None:
        self._newest[result.model, result.depth] = result


def known_at(depth: str, results: Mapping[str, Mapping[str, Result]]) -> dict[str, Result]:
    """Model -> the newest of its results at a depth or, where these went well, deeper; ``results`` by depth, model."""
    known = dict(results[depth])
    for deeper in DEPTHS[DEPTHS.index(depth) + 1 :]:
        for model, result in results[deeper].items():
            if not result.error and (model not in known or result.checked >= known[model].checked):
                known[model] = result.at(depth)
    return known
