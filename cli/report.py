"""Print the table of a folder of results once more."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A folder that `fxprune compress` wrote."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from fxprune.passes.results import read_result

    print(read_result(args.folder))
    return 0
