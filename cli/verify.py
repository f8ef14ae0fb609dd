"""Check a saved network: its files, its stored answer, the wide network and the ONNX file.

The wide network and the ONNX file are compared where the folder has them. The exit code is 1 if anything disagrees.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`, `fxprune fold` or `fxprune.save`, and data."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what a command or `fxprune.save` wrote")
    parser.add_argument("--data", metavar="NAME", help="also classify its test images, and compare with the results")


def run(args: argparse.Namespace) -> int:
    """Print the comparisons and their errors."""
    from fxprune.passes.report import verify_folder

    check = verify_folder(args.folder, data=args.data)
    print(check)
    return 0 if check.passed else 1
