"""Write what a finished job found: the table, all numbers, and the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fxprune.errors import kind_and_line
from fxprune.passes.onnx import ExportReport
from fxprune.passes.options import FoldJob, Job
from fxprune.passes.report import Answer, Recording, Result, draw_deviation, reasons_of, shares_of, write_report
from fxprune.passes.store import ROWS, SUMMARY
from fxprune.plans import Plan


def record(job: Job | FoldJob, plan: Plan, exported: ExportReport, answers: Sequence[Answer]) -> Recording:
    """Collect what the report shows and nothing else tells."""
    given = {"model": job.model, "data": job.data}
    return Recording(
        shares=shares_of(plan),
        frozen=reasons_of(plan.coupling.frozen),
        onnx=exported.errors,
        answers=tuple(answers),
        in_python=tuple(name for name, value in given.items() if value is not None and not isinstance(value, str)),
    )


def write_result(result: Result, folder: Path) -> None:
    """Write the table and all numbers, and from them the report.

    An error in the report does not end a job whose results are there.
    """
    (folder / ROWS).write_text(result.to_csv(), encoding="utf-8")
    (folder / SUMMARY).write_text(result.to_json(), encoding="utf-8")
    try:
        draw_deviation(folder)
        write_report(folder, result.output)
    except OSError:
        raise
    except Exception as error:
        print(f"the report was not written: {kind_and_line(error)}", file=sys.stderr, flush=True)
