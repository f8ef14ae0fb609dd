"""Write ``docs/reports/latency.md``: shares of the time asked for and measured again.

Each row is one network in one runtime. Rows in ``docs/reports/latency.csv`` are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import timm
import torch

import fxprune
from benchmarks import ROOT
from benchmarks.pages import fill
from benchmarks.tables import csv_text, read_csv
from fxprune.common.files import write_text
from fxprune.costs import cost
from fxprune.passes.latency import time_of
from fxprune.passes.options import MULTIPLES, RUNTIMES

REPORTS = ROOT / "docs" / "reports"
NETWORKS = ("resnet50", "mobilenetv3_large_100", "efficientnet_b0", "convnext_tiny", "vit_small_patch16_224")
SIZE = 224
FIELDS = ("network", "runtime", "batch", "goal", "predicted", "measured", "macs", "params", "wide_ms", "timed")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows that are missing, and write them after each one."""
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="names of timm")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES[:2], choices=RUNTIMES)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.5], metavar="SHARE")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = [*read_csv(REPORTS / "latency.csv")]
    done = {(row["network"], row["runtime"], float(row["goal"])) for row in rows}
    for task in itertools.product(args.networks, args.runtimes, args.latency):
        if task not in done:
            rows.append(measured(*task))
            print(rows[-1], flush=True)
            write(rows)
    write(rows)
    return 0


def measured(name: str, runtime: str, goal: float, batch: int = 1) -> dict[str, Any]:
    """Plan for a share of the time, and time the narrow network again."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    coupling = fxprune.couple(model, torch.randn(2, 3, SIZE, SIZE))
    round_to = MULTIPLES["onnxruntime"]
    found = fxprune.latency_table(coupling, goal, runtime=runtime, batch=batch, round_to=round_to)
    plan = fxprune.plan(coupling, latency=goal, latency_table=found, round_to=round_to, method="even")
    wide_ms, ratio = time_of(plan, runtime=runtime, batch=batch)
    before, after = cost(coupling), cost(plan)
    numbers = {
        "goal": goal,
        "predicted": found.times_of(plan)[1] / found.wide_ms,
        "measured": ratio,
        "macs": after.macs / before.macs,
        "params": after.params / before.params,
        "wide_ms": wide_ms,
    }
    rounded = {field: float(f"{value:.4g}") for field, value in numbers.items()}
    return {"network": name, "runtime": runtime, "batch": batch, **rounded, "timed": len(found.points) - 1}


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as a table for programs, and as a page."""
    REPORTS.mkdir(exist_ok=True)
    write_text(REPORTS / "latency.csv", csv_text(FIELDS, rows))
    cells = [
        [str(row[field]) for field in FIELDS[:5]]
        + [f"{row['measured']} ({float(row['measured']) / float(row['goal']) - 1:+.1%})"]
        + [str(row[field]) for field in FIELDS[6:]]
        for row in rows
    ]
    header = (*FIELDS[:3], "asked for", "predicted", "measured", "MACs", "parameters", "wide ms", "timed")
    page = fill("latency/page.md.jinja", round_to=MULTIPLES["onnxruntime"], header=header, rows=cells)
    write_text(REPORTS / "latency.md", page)


if __name__ == "__main__":
    sys.exit(main())
