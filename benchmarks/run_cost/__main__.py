"""Measure what a run of ImageNet size costs, and write it into ``docs/distributed.md``.

Each part has a process of its own, on one thread; an interrupted run continues. The whole run is arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import ROOT
from benchmarks.pages import fill
from benchmarks.runs import newest_rows, parser_of, run_missing
from fxprune.common.files import write_text
from fxprune.passes.options import Job

from .parts import NETWORK, PARTS, WORK, measure

PAGE, JOURNAL = ROOT / "docs" / "distributed.md", WORK / "results.jsonl"
BEGIN, END = "<!-- made by `python -m benchmarks.run_cost` -->", "<!-- end -->"
BATCH, EPOCHS, TRAIN, TEST = 256, 120, 1_281_167, 50_000
Rows = Mapping[str, Mapping[str, Any]]


class CostShare(NamedTuple):
    """A part of the run: how often it occurs, and its seconds in one process and in each of two."""

    name: str
    times: int
    alone: float
    each: float


def shares(rows: Rows, every: int) -> list[CostShare]:
    """List the parts of the run; two processes share the images, and nothing else."""
    steps = TRAIN // BATCH
    decoding, passes, step = rows["decoding"], rows["passes"], rows["step"]
    evaluation, save = passes["forward"] + decoding["test"], rows["checkpoint"]["elapsed"]
    return [
        CostShare("decoding and augmenting", EPOCHS * TRAIN, decoding["train"], decoding["train"] / 2),
        CostShare("forward and backward passes", EPOCHS * TRAIN, passes["both"], passes["both"] / 2),
        CostShare("averaging gradients", EPOCHS * steps, 0.0, rows["averaging"]["elapsed"]),
        CostShare("steps of the optimizer", EPOCHS * steps, step["alone"], step["alone"]),
        CostShare("the hook", EPOCHS * steps, step["hook"], step["hook"]),
        CostShare("evaluation, decoding included", EPOCHS * TEST, evaluation, evaluation / 2),
        CostShare("checkpoints", EPOCHS * (steps // every + 1), save, save),
    ]


def section(rows: Rows) -> str:
    """Write the tables of the parts and of the whole run."""
    every = Job(model=NETWORK, data="imagenet", output="out").checkpoint_every
    run, day = shares(rows, every), max(row["day"] for row in rows.values())
    totals = [sum(part.times * part[place] for part in run) for place in (2, 3)]
    return fill("run_cost/page.md.jinja", rows=rows, run=run, totals=totals, images=every * BATCH, every=every, day=day)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the section; the exit code is 1 if a part failed."""
    args = parser_of("run_cost", __doc__ or "", "part", "step", seconds=600.0, jobs=False).parse_args(argv)
    run_missing(measure, PARTS, JOURNAL, args, noun="part", preload=("benchmarks.run_cost.parts",))
    rows = {name: row for name, row in newest_rows(JOURNAL, "part").items() if "error" not in row}
    if missing := sorted(PARTS.keys() - rows):
        print(f"not measured: {', '.join(missing)}; see {WORK / 'logs'}")
        return 1
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{section(rows)}\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
