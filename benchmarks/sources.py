"""Hash the sources that decide a result, so that a run knows which are up to date."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks import ROOT

# The modules that a check runs: only these, and what they import of ours, can change a result.
CHECKED = ("benchmarks.checks.examination", "fxprune.passes.onnx.export")
_RUNS_ON = ("torch", "timm", "onnxruntime")


def digest(files: Iterable[Path]) -> str:
    """Hash the code of files, and the versions of the packages that they run on.

    Comments, docstrings, layout, import lines and the path of a file do not count: they change no result.
    """
    sha = hashlib.sha256(" ".join(version(name) for name in _RUNS_ON).encode())
    for code in sorted({_code(path) for path in files} - {b""}):
        sha.update(code + b"\0")
    return sha.hexdigest()[:12]


class _Bare(ast.NodeTransformer):
    """A transformer that removes what changes no result: imports, docstrings and ``__all__``."""

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
    """List the files of the core and the passes that a check imports, by a separate process."""
    script = (
        f"import sys, {', '.join(CHECKED)}\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'fxprune'), sep='\\n')"
    )
    completed = subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True, text=True)
    return sorted(Path(line).resolve() for line in completed.stdout.splitlines() if line)
