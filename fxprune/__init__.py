"""fxprune: find which channels of a network are one channel, train them to be identical, merge them at no loss.

The core imports neither ``fxprune.passes`` nor ``fxprune.models_zoo``; the shortcuts below resolve on first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxprune.passes.artifact import load as load
    from fxprune.passes.artifact import save as save
    from fxprune.passes.cluster import plan as plan
    from fxprune.passes.compress import compress as compress
    from fxprune.passes.csgd import csgd as csgd
    from fxprune.passes.export_onnx import export_onnx as export_onnx
    from fxprune.passes.narrow import narrow as narrow
    from fxprune.passes.prove import prove as prove
    from fxprune.passes.settle import settle as settle
    from fxprune.passes.snap import snap as snap
    from fxprune.passes.verify import verify as verify
    from fxprune.plan_file import load_plan as load_plan
    from fxprune.plans import Plan as Plan
    from fxprune.propagate import couple as couple

__version__ = "0.1.0"

_root = Path(__file__).resolve().parent
if not (_root / "passes").is_dir():  # a checkout: passes/, models_zoo/ and cli/ lie beside this folder
    __path__.append(str(_root.parent))

_PUBLIC = {
    "couple": "fxprune.propagate",
    "Plan": "fxprune.plans",
    "load_plan": "fxprune.plan_file",
    "plan": "fxprune.passes.cluster",
    "csgd": "fxprune.passes.csgd",
    "settle": "fxprune.passes.settle",
    "snap": "fxprune.passes.snap",
    "narrow": "fxprune.passes.narrow",
    "verify": "fxprune.passes.verify",
    "prove": "fxprune.passes.prove",
    "export_onnx": "fxprune.passes.export_onnx",
    "save": "fxprune.passes.artifact",
    "load": "fxprune.passes.artifact",
    "compress": "fxprune.passes.compress",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
