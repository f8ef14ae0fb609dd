"""Plan within a budget of time: times are measured here, and handed down to planning."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, cast

from torch import Tensor

from fxprune.coupling import Coupling
from fxprune.latencies import LatencyTable
from fxprune.passes.options import Target
from fxprune.passes.planning import plan as plan_by
from fxprune.plans import Plan

from .measure import latency_table

P = ParamSpec("P")


def _measuring(make: Callable[P, Plan]) -> Callable[P, Plan]:
    """Let a function that plans measure the times that it is not given."""

    @functools.wraps(make)
    def plan(*args: P.args, **options: P.kwargs) -> Plan:
        if options.get("latency") is not None and options.get("latency_table") is None:
            cast(dict[str, Any], options)["latency_table"] = latency_table
        return make(*args, **options)

    return plan


plan = _measuring(plan_by)


def times_for(target: Target, coupling: Coupling) -> LatencyTable | None:
    """Measure or read the times that a budget of time goes by, once for all plans."""
    if target.latency is None:
        return None
    if target.latency_table is not None:
        return LatencyTable.read(target.latency_table)
    how = {name: getattr(target, name) for name in ("runtime", "batch", "only", "freeze", "internal_only")}
    return latency_table(coupling, target.latency, round_to=target.multiple, **how)


def plan_to(
    target: Target,
    coupling: Coupling,
    batches: Iterable[Tensor] | None = None,
    *,
    method: str | None = None,
    times: LatencyTable | None = None,
) -> Plan:
    """Make the plan that reaches a target, by :func:`fxprune.plan`, which measures nothing here.

    Raises:
        NothingToPruneError: the coupling has no groups.
        PlanError: a group cannot have its width.
    """
    asked = vars(target.only_of(Target)) | {"cluster": target.clusters_by, "batches": batches}
    asked |= {"round_to": target.multiple, "latency_table": times}
    del asked["target"]
    return plan_by(coupling, **asked | ({"method": method, "cluster": "rows"} if method else {}))
