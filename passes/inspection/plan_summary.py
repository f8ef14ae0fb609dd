"""Summarise a plan before any training: widths, parameters and MACs of each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fxprune.common.table import table
from fxprune.common.text import count, fill, in_units, shortened
from fxprune.costs import Cost, cost_of_one, cost_terms, samples_of
from fxprune.latencies import LatencyTable
from fxprune.passes.planning import odd_in_words, odd_widths
from fxprune.plans import Plan

from .coupling import change


@dataclass(frozen=True)
class PlannedGroup:
    """One group, before and after; its parameters and MACs are those in its rows and columns.

    Attributes:
        name: of the group.
        before: channels.
        after: channels that stay.
        balanced: every cluster has the same size.
        params: before and after.
        macs: before and after, for one sample.
    """

    name: str
    before: int
    after: int
    balanced: bool
    params: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class Times:
    """The times of the network, and what the plan is predicted to leave of them.

    Attributes:
        runtime: ``onnxruntime``, ``eager`` or ``compiled``.
        batch: samples at once.
        threads: number of threads.
        before_ms: milliseconds, as measured.
        after_ms: milliseconds, between those of narrow copies.
    """

    runtime: str
    batch: int
    threads: int
    before_ms: float
    after_ms: float

    def __str__(self) -> str:
        return (
            f"{self.before_ms:.3g} -> {self.after_ms:.3g} ms (x {self.after_ms / self.before_ms:.3f}) predicted in "
            f"{self.runtime}, at a batch of {self.batch} on {count(self.threads, 'thread')}."
        )


@dataclass(frozen=True)
class PlanSummary:
    """The changes that a plan would make.

    Attributes:
        model: address of the network.
        method: how the clusters were found, and what was reached.
        seed: of the search.
        groups: in the order of the network.
        before: cost of the network, for one sample.
        after: cost of the narrow one.
        multiple: the number of which the widths of layers should be multiples; 1: any.
        odd: group -> a width of its layers after the plan that is no such multiple.
        latency: predicted times, if the plan goes by time.
    """

    model: str
    method: str
    seed: int
    groups: tuple[PlannedGroup, ...]
    before: Cost
    after: Cost
    multiple: int
    odd: Mapping[str, int]
    latency: Times | None = None

    def text(self, columns: int = 100) -> str:
        """Format it in words and as a table."""
        narrower = [group for group in self.groups if group.after < group.before]
        gone = sum(group.before - group.after for group in narrower)
        every = sum(group.before for group in self.groups)
        head = (
            f"{self.model}: {len(narrower)} of {count(len(self.groups), 'group')} would become narrower, by {gone:,} "
            f"of {every:,} channels. {change(self.before, self.after)}, for one sample."
        )
        head += f" {self.latency}" if self.latency else ""
        header = ("group", "before", "after", "parameters", "MACs")
        rows = [(group.before, group.after, _to(*group.params), _to(*group.macs)) for group in self.groups]
        others = [max(len(str(cell)) for cell in column) for column in zip(header[1:], *rows, strict=True)]
        most = columns - sum(others) - 2 * len(others)
        named = [(shortened(group.name, most), *row) for group, row in zip(self.groups, rows, strict=True)]
        twice = sum(group.params[0] for group in self.groups) > self.before.params
        both = " A weight between two groups counts for both." if twice else ""
        texts = [
            fill(head, columns),
            table(header, named, right="before after parameters MACs"),
            fill(f"Clusters: {self.method}, seed {self.seed}.{both}", columns),
        ]
        if self.odd:
            texts.append(fill(f"Warning: {odd_in_words(self.odd, self.multiple)}", columns))
        return "\n\n".join(texts)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON value with the names of the attributes."""
        return asdict(self)


def describe_plan(plan: Plan, model: str, multiple: int = 1, table: LatencyTable | None = None) -> PlanSummary:
    """Collect what a plan changes, from the cost of one sample and from measured times."""
    coupling, samples = plan.coupling, samples_of(plan.coupling)
    after = np.array([*(now / was for was, now in plan.widths.values()), 1.0])
    costs = []
    for budget in ("params", "macs"):
        terms = cost_terms(coupling, budget).by_group(coupling)
        costs.append([terms.parts(shares) for shares in (np.ones_like(after), after)])
    groups = []
    for i, (name, group) in enumerate(coupling.groups.items()):
        params, macs = ((round(was[i] / n), round(now[i] / n)) for n, (was, now) in zip((1, samples), costs))
        groups.append(PlannedGroup(name, *plan.widths[name], group.balanced, params, macs))
    odd = odd_widths(coupling, {name: width for name, (_, width) in plan.widths.items()}, multiple)
    times = Times(table.runtime, table.batch, table.threads, *table.times_of(plan)) if table else None
    before, left = cost_of_one(coupling), cost_of_one(plan)
    return PlanSummary(model, plan.method, plan.seed, tuple(groups), before, left, multiple, odd, times)


def _to(before: int, after: int) -> str:
    return f"{in_units(before)} -> {in_units(after)}" if after != before else in_units(before)
