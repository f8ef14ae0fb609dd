"""Time the narrow and the wide network of a folder of results, in PyTorch and onnxruntime."""

from __future__ import annotations

import argparse

from ..options import as_path
from ..reply import Reply, export_step, next_steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress`, and batch sizes."""
    parser.add_argument("folder", metavar="DIR", type=as_path, help="what `fxprune compress` wrote")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="default: 1 8 64")


def run(args: argparse.Namespace) -> Reply:
    """Time both networks."""
    from dataclasses import asdict

    from fxprune.passes.report import bench

    found = bench(args.folder, args.batch)
    return Reply(f"{found}{next_steps(export_step(args.folder))}", lambda: {"folder": args.folder, **asdict(found)})
