"""Time the narrow and the wide network of a folder of results, in PyTorch and onnxruntime."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`, and batch sizes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` wrote")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="default: 1 8 64")


def run(args: argparse.Namespace) -> int:
    """Print a table."""
    from fxprune.passes.report import bench

    print(bench(args.folder, args.batch))
    return 0
