"""Print the table of a folder of results once more, and draw what its run recorded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fxprune.errors import OptionError

from .answer import Answer, result_answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> Answer:
    """Read the table; print on stderr the path of the drawing, or why there is none."""
    from fxprune.passes.report import has_deviation, read_result
    from fxprune.passes.store import DEVIATION_PLOT, METRICS, SUMMARY, read_manifest

    read_manifest(args.folder).check(args.folder, [SUMMARY, METRICS])
    result = read_result(args.folder)
    drawn, why_not = None, ""
    if has_deviation(args.folder):
        why_not = _draw(args.folder, args.folder / DEVIATION_PLOT)
        drawn = None if why_not else args.folder / DEVIATION_PLOT
        print(f"not drawn: {why_not}" if why_not else f"drawn: {drawn}", file=sys.stderr)
    return result_answer(result, drawn=drawn)


def _draw(folder: Path, path: Path) -> str:
    """Draw the deviation; return why not, or an empty text."""
    from fxprune.passes.report import can_draw, draw_deviation
    from fxprune.passes.store import folder_aside

    if not can_draw():
        return f"{path.name} needs matplotlib; pip install 'fxprune[plots]'."
    try:
        with folder_aside(folder, files=[path.name]) as aside:
            draw_deviation(folder, aside)
    except OSError as error:  # the folder may be read-only
        return f"{path}: {error.strerror}."
    except OptionError as error:
        return str(error)
    return ""
