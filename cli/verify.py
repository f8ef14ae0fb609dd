"""Hold the narrow network in a folder of results against the snapped wide one, and its ONNX file against both.

The exit code is 1 where they disagree.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A folder that `fxprune compress` wrote."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> int:
    """Print what was compared and how far it is apart."""
    from fxprune.passes.report import verify_folder

    check = verify_folder(args.folder)
    print(check)
    return 0 if check.passed else 1
