"""Check a saved network: its files, its stored answer, the wide network and the ONNX file.

The wide network and the ONNX file are compared where the folder has them. The exit code is 1 if anything disagrees, if
a file is missing or changed, or if what the folder computes takes longer than `--timeout` allows.
"""

from __future__ import annotations

import argparse
import sys

from ..deadline import deadline
from ..options import as_path
from ..reply import Reply, as_json, export_step, next_steps

SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of a command or of `fxprune.save`, data, and a limit on time."""
    parser.add_argument("folder", metavar="DIR", type=as_path, help="what a command or `fxprune.save` wrote")
    parser.add_argument("--data", metavar="NAME", help="also classify its test images, and compare with the results")
    about = f"seconds that it may take without the data, or `none` (default: {SECONDS:g})"
    parser.add_argument("--timeout", type=_seconds, default=SECONDS, metavar="X", help=about)


def _seconds(text: str) -> float | None:
    """Read a time; None for `none`.

    Raises:
        ArgumentTypeError: it is none.
    """
    if text == "none":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds above 0 and up to 1e6, and not `none`")
    return seconds


def run(args: argparse.Namespace) -> Reply:
    """Compare what the folder holds."""
    from dataclasses import asdict

    from fxprune.errors import DataError, InputError
    from fxprune.passes.report import FolderReport, verify_data, verify_folder

    try:
        with deadline(args.timeout, lambda: _say_over(args)):
            check = verify_folder(args.folder)
        if args.data is not None:
            check = FolderReport((*check.findings, verify_data(args.folder, args.data)))
    except InputError as error:
        # What was to be shown of the folder does not hold.
        error.exit_code = 1 if args.folder.is_dir() and not isinstance(error, DataError) else error.exit_code
        raise
    value = {"folder": args.folder, "passed": check.passed, "findings": [asdict(each) for each in check.findings]}
    text = str(check)
    if check.passed:
        text += next_steps(export_step(args.folder))
    return Reply(text, lambda: value, 0 if check.passed else 1)


def _say_over(args: argparse.Namespace) -> None:
    took = f"it computes for more than {args.timeout:g} s"
    message = f"{args.folder} is not verified: {took}. `--timeout` sets the limit."
    if args.json:
        print(as_json("verify", {"error": {"kind": "CheckpointError", "message": message}}, 1), file=sys.__stdout__)
    print(f"fxprune: {message}", file=sys.__stderr__)
