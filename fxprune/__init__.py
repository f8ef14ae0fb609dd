"""fxprune finds channels that can merge, trains them to be identical, and merges them.

The core imports neither ``fxprune.passes`` nor ``fxprune.models_zoo``; the shortcuts below resolve on first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxprune.analysis import couple as couple
    from fxprune.costs import Cost as Cost
    from fxprune.costs import cost as cost
    from fxprune.coupling import Coupling as Coupling
    from fxprune.coupling import Frozen as Frozen
    from fxprune.coupling import Group as Group
    from fxprune.errors import AnalysisError as AnalysisError
    from fxprune.errors import CaptureError as CaptureError
    from fxprune.errors import CheckpointError as CheckpointError
    from fxprune.errors import CustomGradientWarning as CustomGradientWarning
    from fxprune.errors import DataError as DataError
    from fxprune.errors import DivergedError as DivergedError
    from fxprune.errors import ExportError as ExportError
    from fxprune.errors import FxpruneError as FxpruneError
    from fxprune.errors import GraftError as GraftError
    from fxprune.errors import InputError as InputError
    from fxprune.errors import LostProcessError as LostProcessError
    from fxprune.errors import ModelError as ModelError
    from fxprune.errors import NoPullWarning as NoPullWarning
    from fxprune.errors import NothingToPruneError as NothingToPruneError
    from fxprune.errors import OptionError as OptionError
    from fxprune.errors import PlanError as PlanError
    from fxprune.errors import ProofError as ProofError
    from fxprune.errors import RewriteError as RewriteError
    from fxprune.errors import StoppedError as StoppedError
    from fxprune.errors import UncheckedWarning as UncheckedWarning
    from fxprune.errors import UnequalClustersWarning as UnequalClustersWarning
    from fxprune.errors import VerifyError as VerifyError
    from fxprune.errors import WidthWarning as WidthWarning
    from fxprune.latencies import LatencyTable as LatencyTable
    from fxprune.passes.csgd import Csgd as Csgd
    from fxprune.passes.csgd import Deviation as Deviation
    from fxprune.passes.csgd import csgd as csgd
    from fxprune.passes.graft import graft as graft
    from fxprune.passes.job import compress as compress
    from fxprune.passes.latency import latency_table as latency_table
    from fxprune.passes.latency import plan as plan
    from fxprune.passes.merge import settle as settle
    from fxprune.passes.merge import snap as snap
    from fxprune.passes.onnx import ExportReport as ExportReport
    from fxprune.passes.onnx import export_onnx as export_onnx
    from fxprune.passes.planning import load_plan as load_plan
    from fxprune.passes.repair import fold as fold
    from fxprune.passes.report import Result as Result
    from fxprune.passes.rewrite import narrow as narrow
    from fxprune.passes.source import SourceReport as SourceReport
    from fxprune.passes.source import export_python as export_python
    from fxprune.passes.store import load as load
    from fxprune.passes.store import save as save
    from fxprune.passes.verify import Proof as Proof
    from fxprune.passes.verify import Report as Report
    from fxprune.passes.verify import prove as prove
    from fxprune.passes.verify import verify as verify
    from fxprune.plan_file import plan_for as plan_for
    from fxprune.plans import Plan as Plan

__version__ = "0.1.0"

_root = os.path.dirname(os.path.realpath(__file__))  # pathlib is slow to import
if not os.path.isdir(os.path.join(_root, "passes")):  # a checkout: passes/, models_zoo/ and cli/ lie beside this folder
    __path__.append(os.path.dirname(_root))

# Module -> its public names; the imports for type checkers above list the same names.
_NAMES = {
    "fxprune.analysis": "couple",
    "fxprune.coupling": "Coupling Group Frozen",
    "fxprune.passes.latency": "plan latency_table",
    "fxprune.plans": "Plan",
    "fxprune.passes.planning": "load_plan",
    "fxprune.plan_file": "plan_for",
    "fxprune.costs": "cost Cost",
    "fxprune.latencies": "LatencyTable",
    "fxprune.passes.csgd": "csgd Csgd Deviation",
    "fxprune.passes.merge": "settle snap",
    "fxprune.passes.rewrite": "narrow",
    "fxprune.passes.graft": "graft",
    "fxprune.passes.repair": "fold",
    "fxprune.passes.verify": "verify Report prove Proof",
    "fxprune.passes.onnx": "export_onnx ExportReport",
    "fxprune.passes.source": "export_python SourceReport",
    "fxprune.passes.store": "save load",
    "fxprune.passes.job": "compress",
    "fxprune.passes.report": "Result",
    "fxprune.errors": (
        "UnequalClustersWarning CustomGradientWarning WidthWarning NoPullWarning UncheckedWarning FxpruneError "
        "InputError ModelError CaptureError GraftError PlanError NothingToPruneError DataError CheckpointError "
        "OptionError DivergedError StoppedError LostProcessError ProofError AnalysisError RewriteError VerifyError "
        "ExportError"
    ),
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fxprune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
