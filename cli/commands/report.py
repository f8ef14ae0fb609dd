"""Print the table of a folder of results once more, and write its report anew.

The report is report.html, one file that needs no network, report.md, and deviation.svg if the run recorded deviations.
"""

from __future__ import annotations

import argparse
import sys

from fxprune.errors import CheckpointError, OptionError

from ..options import as_path
from ..reply import Reply, result_reply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress` or `fxprune fold`."""
    parser.add_argument("folder", metavar="DIR", type=as_path, help="what `fxprune compress` or `fxprune fold` wrote")


def run(args: argparse.Namespace) -> Reply:
    """Read the table, and write the report; print on stderr its path, or why there is none."""
    from fxprune.passes.report import draw_deviation, read_result, write_report
    from fxprune.passes.store import (
        DEVIATION_PLOT,
        METRICS,
        PAGE,
        PAGE_TEXT,
        RECORDING,
        SUMMARY,
        folder_aside,
        read_manifest,
    )

    manifest = read_manifest(args.folder)
    if SUMMARY not in manifest.files:
        raise CheckpointError(
            f"{args.folder} holds a network and no results of a run, so that there is nothing to report: "
            f"`fxprune inspect {args.folder}` describes the network, and `fxprune verify {args.folder}` checks it."
        )
    manifest.check(args.folder, [SUMMARY, METRICS, *({RECORDING} & manifest.files.keys())])
    result, page, why_not = read_result(args.folder), args.folder / PAGE, ""
    try:
        with folder_aside(args.folder, files=[DEVIATION_PLOT, PAGE_TEXT, PAGE]) as aside:
            draw_deviation(args.folder, aside)
            write_report(args.folder, args.folder, aside)
    except OSError as error:  # the folder may be read-only
        why_not = f"{page}: {error.strerror}."
    except OptionError as error:
        why_not = str(error)
    print(f"not written: {why_not}" if why_not else f"written: {page}", file=sys.stderr)
    return result_reply(result, page=None if why_not else page)
