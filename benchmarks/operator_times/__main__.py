"""Measure which operators take the time of networks, wide and narrow.

Writes ``docs/reports/operator_times.md``. Each network in each runtime has a process of its own; an interrupted run
continues.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import ROOT
from benchmarks.machine import machine
from benchmarks.pages import fill
from benchmarks.runs import measure_and_report, parser_of

from .measure import FIGURES, ROUND_TO, ROUNDS, measure

JOURNAL = ROOT / "build" / "operator_times" / "results.jsonl"
PAGE = ROOT / "docs" / "reports" / "operator_times.md"
# Operators that take less of the time, wide and narrow, are summed up.
SHOWN = 0.03


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the page; the exit code is 1 if a figure failed."""
    about = __doc__ or ""
    args = parser_of("operator_times", about, "figure", "resnet50 *", seconds=600.0, jobs=False).parse_args(argv)
    return measure_and_report(measure, FIGURES, JOURNAL, args, (PAGE, page), machine=machine())


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a table of all networks, and one of operators for each runtime and batch size."""
    good = {name: rows[name] for name in FIGURES if "batches" in rows.get(name, {})}
    found = {f"{name} {batch}": (row, each) for name, row in good.items() for batch, each in row["batches"].items()}
    return fill(
        "operator_times/page.md.jinja",
        rows=found,
        forms=list(ROUND_TO),
        operators={name: list(operators(each["operators"])) for name, (_, each) in found.items()},
        eaters={name: eaters(each["operators"], row["macs"]["narrow"]) for name, (row, each) in found.items()},
        shown=SHOWN,
        machines=sorted({f"{row['machine']}; {row['day']}" for row in good.values()}),
        failed={name: row["error"] for name, row in rows.items() if "error" in row},
        rounds=ROUNDS,
    )


def operators(times: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, ...]]:
    """Yield the share of each operator, wide and narrow, and its time over the wide one."""
    wide, narrow = times["wide"], times["narrow"]
    shares = {name: max(wide[name] / sum(wide.values()), _share(narrow, name)) for name in wide}
    known = sorted((name for name in wide if shares[name] >= SHOWN), key=lambda name: -wide[name])
    rest = {name for form in times.values() for name in form} - {*known}
    for label, names in (*((name, {name}) for name in known), ("all others", rest), ("all", {*known} | rest)):
        taken = {form: sum(time for name, time in each.items() if name in names) for form, each in times.items()}
        parts = (f"{taken[form] / sum(times[form].values()):.0%}" for form in ("wide", "narrow"))
        ratios = (f"{taken[form] / taken['wide']:.2f}" if taken["wide"] else "" for form in ROUND_TO)
        yield label, *parts, *ratios


def eaters(times: Mapping[str, Mapping[str, float]], macs: float) -> str:
    """Name the three operators furthest above the share of the MACs, with their parts of it."""
    over = {name: time - macs * times["wide"].get(name, 0.0) for name, time in times["narrow"].items()}
    most = sorted(over, key=lambda name: -over[name])[:3]
    total = sum(time for time in over.values() if time > 0)
    return "; ".join(f"{name} {over[name] / total:.0%}" for name in most if over[name] > 0)


def _share(times: Mapping[str, float], name: str) -> float:
    return times.get(name, 0.0) / sum(times.values())


if __name__ == "__main__":
    sys.exit(main())
