"""Check the rewrite of a network in float64, where only a wrong merge shows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from torch import nn

from fxprune.arguments.inputs import Inputs
from fxprune.errors import FxpruneError
from fxprune.passes.rewrite import merged_by
from fxprune.plan_file import plan_for
from fxprune.plans import Plan
from fxprune.pytorch.modules import float64_copy

from .compare import Report, compare_outputs


def verify_rewrite(
    snapped: nn.Module, plan: Plan, inputs: Inputs, *, batches: Sequence[int]
) -> tuple[Report, nn.Module, Plan]:
    """Check to 1e-9 that a narrow network computes in float64 what the snapped one does.

    The weights are float64 before the merge, which sums columns: float32 would round the sums. They go into the graph
    of the plan. Where that graph does not run or disagrees, as where the network branches by its precision, the copy is
    analysed anew before this counts.

    Returns:
        The report, the copy in float64, and the plan on that copy.
    """
    double = float64_copy(snapped)
    with contextlib.suppress(FxpruneError):
        here = plan.of_copy(double)
        if (report := _verified(double, here, inputs, batches)).passed:
            return report, double, here
    here = plan_for(double, plan)
    return _verified(double, here, inputs, batches), double, here


def _verified(double: nn.Module, plan: Plan, inputs: Inputs, batches: Sequence[int]) -> Report:
    # Sums of a million float64 terms keep 1e-12; a wrong coupling moves an output by 1e-3 and more.
    return compare_outputs(double, merged_by(plan, double)[0], inputs, tolerance=1e-9, batches=batches)
