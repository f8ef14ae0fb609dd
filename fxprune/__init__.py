"""fxprune: find which channels of a network are one channel, train them to be identical, merge them at no loss.

The core imports neither ``fxprune.passes`` nor ``fxprune.models_zoo``; the shortcuts below resolve on first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxprune.analysis import couple as couple
    from fxprune.costs import cost as cost
    from fxprune.passes.csgd import csgd as csgd
    from fxprune.passes.job import compress as compress
    from fxprune.passes.merge import settle as settle
    from fxprune.passes.merge import snap as snap
    from fxprune.passes.onnx import export_onnx as export_onnx
    from fxprune.passes.planning import plan as plan
    from fxprune.passes.rewrite import narrow as narrow
    from fxprune.passes.store import load as load
    from fxprune.passes.store import save as save
    from fxprune.passes.verify import prove as prove
    from fxprune.passes.verify import verify as verify
    from fxprune.plan_file import load_plan as load_plan
    from fxprune.plans import Plan as Plan

__version__ = "0.1.0"

_root = Path(__file__).resolve().parent
if not (_root / "passes").is_dir():  # a checkout: passes/, models_zoo/ and cli/ lie beside this folder
    __path__.append(str(_root.parent))

_PUBLIC = {
    "couple": "fxprune.analysis",
    "Plan": "fxprune.plans",
    "cost": "fxprune.costs",
    "load_plan": "fxprune.plan_file",
    "plan": "fxprune.passes.planning",
    "csgd": "fxprune.passes.csgd",
    "settle": "fxprune.passes.merge",
    "snap": "fxprune.passes.merge",
    "narrow": "fxprune.passes.rewrite",
    "verify": "fxprune.passes.verify",
    "prove": "fxprune.passes.verify",
    "export_onnx": "fxprune.passes.onnx",
    "save": "fxprune.passes.store",
    "load": "fxprune.passes.store",
    "compress": "fxprune.passes.job",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
