"""Print the table of a folder of results once more, and draw what its run recorded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A folder that `fxprune compress` wrote."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the table, and the place of the drawing on stderr."""
    from fxprune.passes.deviation_plot import DEVIATION_PLOT, can_draw, draw_deviation, has_deviation
    from fxprune.passes.results import read_result

    print(read_result(args.folder))
    if (path := draw_deviation(args.folder)) is not None:
        print(f"drawn: {path}", file=sys.stderr)
    elif has_deviation(args.folder) and not can_draw():
        print(f"not drawn: {DEVIATION_PLOT} needs matplotlib; pip install 'fxprune[plots]'.", file=sys.stderr)
    return 0
