"""Compare the narrow network of a folder of results with the wide one and the ONNX file.

The exit code is 1 if they disagree.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")


def run(args: argparse.Namespace) -> int:
    """Print the comparisons and their errors."""
    from fxprune.passes.report import verify_folder

    check = verify_folder(args.folder)
    print(check)
    return 0 if check.passed else 1
