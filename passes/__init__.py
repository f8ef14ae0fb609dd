"""Passes act on a coupling, with a room per concern; see docs/architecture.md."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Formerly documented module of a function -> its present module.
_MOVED = {
    "artifact": "store.artifact",
    "cluster": "latency.budget",
    "compress": "job.compression",
    "export_onnx": "onnx.export",
    "metrics": "report.metrics",
    "narrow": "rewrite.narrow",
    "onednn": "train.onednn",
    "prove": "verify.prove",
    "recipe": "options.recipe",
    "settle": "merge.settle",
    "snap": "merge.snap",
}


class _Moved:  # no importlib.abc.Loader, whose import is slow
    """An importer that maps former module paths to the present modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, last = fullname.rpartition(".")
        found: Any = self  # a Loader in all but name
        return ModuleSpec(fullname, found) if package == __name__ and last in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__name__}.{_MOVED[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_Moved())
