"""Print the table of a folder of results once more, and write its report anew.

The report is report.html, one file that needs no network, report.md, and deviation.svg if the run recorded deviations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fxprune.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress` or `fxprune fold`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` or `fxprune fold` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the table, and on stderr the path of the report, or why there is none."""
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
    manifest.check(args.folder, [SUMMARY, METRICS, *({RECORDING} & manifest.files.keys())])
    print(read_result(args.folder))
    try:
        with folder_aside(args.folder, files=[DEVIATION_PLOT, PAGE_TEXT, PAGE]) as aside:
            draw_deviation(args.folder, aside)
            write_report(args.folder, args.folder, aside)
    except OSError as error:  # the folder may be read-only
        print(f"not written: {args.folder / PAGE}: {error.strerror}.", file=sys.stderr)
    except OptionError as error:
        print(f"not written: {error}", file=sys.stderr)
    else:
        print(f"written: {args.folder / PAGE}", file=sys.stderr)
    return 0
