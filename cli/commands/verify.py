"""Check a saved network: its files, its stored answer, the wide network and the ONNX file.

The wide network and the ONNX file are compared where the folder has them. The exit code is 1 if anything disagrees, or
if a file is missing or changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..reply import Reply


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`, `fxprune fold` or `fxprune.save`, and data."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what a command or `fxprune.save` wrote")
    parser.add_argument("--data", metavar="NAME", help="also classify its test images, and compare with the results")


def run(args: argparse.Namespace) -> Reply:
    """Compare what the folder holds."""
    from dataclasses import asdict

    from fxprune.errors import DataError, InputError
    from fxprune.passes.report import verify_folder

    try:
        check = verify_folder(args.folder, data=args.data)
    except InputError as error:
        # What was to be shown of the folder does not hold.
        error.exit_code = 1 if args.folder.is_dir() and not isinstance(error, DataError) else error.exit_code
        raise
    value = {"folder": args.folder, "passed": check.passed, "findings": [asdict(each) for each in check.findings]}
    return Reply(str(check), lambda: value, 0 if check.passed else 1)
