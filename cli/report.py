"""Print the table of a folder of results once more, and draw what its run recorded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fxprune.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the table, and on stderr the path of the drawing, or why there is none."""
    from fxprune.passes.report import can_draw, draw_deviation, has_deviation, read_result
    from fxprune.passes.store import DEVIATION_PLOT, METRICS, SUMMARY, folder_aside, read_manifest

    read_manifest(args.folder).check(args.folder, [SUMMARY, METRICS])
    print(read_result(args.folder))
    if not has_deviation(args.folder):
        return 0
    if not can_draw():
        print(f"not drawn: {DEVIATION_PLOT} needs matplotlib; pip install 'fxprune[plots]'.", file=sys.stderr)
        return 0
    try:
        with folder_aside(args.folder, files=[DEVIATION_PLOT]) as aside:
            draw_deviation(args.folder, aside)
    except OSError as error:  # the folder may be read-only
        print(f"not drawn: {args.folder / DEVIATION_PLOT}: {error.strerror}.", file=sys.stderr)
    except OptionError as error:
        print(f"not drawn: {error}", file=sys.stderr)
    else:
        print(f"drawn: {args.folder / DEVIATION_PLOT}", file=sys.stderr)
    return 0
