"""Repeat the checks of the main job, from its files alone."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from fxprune.common.table import table
from fxprune.errors import FxpruneError
from fxprune.passes.merge import snap
from fxprune.passes.onnx import check_onnx
from fxprune.passes.rewrite import merged_by
from fxprune.passes.store import ESSENTIAL, WIDE, load_weights, read_manifest
from fxprune.passes.verify import differing, in_float64, tensor_errors, verify

from .run_folder import Run, open_run


@dataclass(frozen=True)
class Finding:
    """The result of one comparison.

    Attributes:
        what: the two sides.
        rel_error: the relative error between them; None if unknown.
        bound: the largest error allowed.
        reason: why they disagree; empty if they agree.
    """

    what: str
    rel_error: float | None
    bound: float
    reason: str


@dataclass(frozen=True)
class FolderReport:
    """The results of all comparisons; prints as a table."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether everything agrees."""
        return not any(finding.reason for finding in self.findings)

    def __str__(self) -> str:
        rows = [
            (
                finding.what,
                "" if finding.rel_error is None else f"{finding.rel_error:.1e}",
                f"{finding.bound:.0e}" if finding.bound else "0",
                "FAILS" if finding.reason else "holds",
            )
            for finding in self.findings
        ]
        text = table(("compared", "relative error", "bound", "verdict"), rows, right="bound")
        return "\n".join(
            [text, *(f"\n{finding.what}: {finding.reason}" for finding in self.findings if finding.reason)]
        )


def verify_folder(folder: str | os.PathLike[str]) -> FolderReport:
    """Check clusters, rewrite, stored narrow network and ONNX file of a folder again.

    The members of a cluster must be equal, the rewrite exact, and the stored network and the ONNX file its result.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    manifest.check(place, dict.fromkeys([*ESSENTIAL, *manifest.files]))  # every file, also those not used here
    files = open_run(place)
    load_weights(copy.deepcopy(files.snapped), place / WIDE)
    change = float(snap(files.snapped, files.plan).max_change)  # type: ignore[arg-type]
    equal = Finding("rows of a cluster, in the wide network", change, 0.0, "they are not equal" if change else "")
    double, plan = in_float64(files.snapped, files.plan)
    # Sums of a million float64 terms keep 1e-12; a wrong coupling moves an output by 1e-3 and more.
    rewrite = verify(double, merged_by(plan, double)[0], files.example, tolerance=1e-9)
    # The same graph with the same numbers may not differ at all.
    stored = verify(merged_by(files.plan, files.snapped)[0], files.narrow, files.example, tolerance=0.0)
    findings = [
        equal,
        _on_tensors(files),
        Finding("narrow with wide network, in float64", rewrite.max_rel_error, 1e-9, rewrite.reason),
        Finding("stored narrow network with the one made anew", stored.max_rel_error, 0.0, stored.reason),
    ]
    findings.append(_on_onnx(files.narrow, files.onnx, files.example))
    return FolderReport(tuple(findings))


def _on_tensors(files: Run) -> Finding:
    what = "stored narrow tensors with the merge of the wide ones"
    # Sums are taken in float64 and rounded once, 6e-8 in float32; another device may round the other way.
    bound = 1e-6
    errors = tensor_errors(files.snapped, files.narrow, files.plan)
    if errors is None:
        return Finding(what, None, bound, "they are tensors of different networks")
    wrong = differing(errors, bound, files.narrow)
    named = ", ".join(f"`{name}` by {error:.2g}" for name, error in [*wrong.items()][:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    reason = f"{named}{more} of the largest number" if wrong else ""
    return Finding(what, max(errors.values(), default=0.0), bound, reason)


def _on_onnx(network: nn.Module, path: Path, example: Tensor) -> Finding:
    what = "onnxruntime with PyTorch, in float32"
    try:
        # Two float32 kernels that sum in different orders differ by 1e-6; a wrong weight moves the output by 1e-2.
        agreement = check_onnx(network, path, example, tolerance=1e-4)
    except FxpruneError as error:
        return Finding(what, None, 1e-4, str(error))
    return Finding(what, agreement.max_rel_error, 1e-4, "")
