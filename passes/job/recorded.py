"""Write what a finished job found: the table, all numbers, and the report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fxprune.errors import kind_and_line
from fxprune.passes.onnx import ExportReport
from fxprune.passes.options import FoldJob, Job, given_in_python
from fxprune.passes.report import Recording, Result, ShownImage, draw_deviation, reasons_of, shares_of, write_report
from fxprune.passes.store import ROWS, SUMMARY
from fxprune.plans import Plan


@contextlib.contextmanager
def for_the_report(what: str) -> Iterator[None]:
    """Tell of an error and go on: a report may not end a job whose results are there.

    A disk that is full, or another error of a file, is no error of the report.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        print(f"{what} not written: {kind_and_line(error)}", file=sys.stderr, flush=True)


def record(job: Job | FoldJob, plan: Plan, exported: ExportReport, answers: Sequence[ShownImage], folder: Path) -> None:
    """Write what the report shows and no other file tells."""
    with for_the_report("what the report shows was"):
        recording = Recording(
            shares=shares_of(plan),
            frozen=reasons_of(plan.coupling.frozen),
            onnx=exported.errors,
            answers=tuple(answers),
            in_python=tuple(given_in_python(job)),
        )
        recording.write(folder)


def write_result(result: Result, folder: Path) -> None:
    """Write the table and all numbers, and from them the report."""
    (folder / ROWS).write_text(result.to_csv(), encoding="utf-8")
    (folder / SUMMARY).write_text(result.to_json(), encoding="utf-8")
    with for_the_report("the report was"):
        draw_deviation(folder)
        write_report(folder, result.output)
