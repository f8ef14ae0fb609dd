"""Export the narrow network in a folder of results to ONNX, and check it in onnxruntime."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from fxprune.passes.options import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress` or `fxprune.save`, and a file."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` or `fxprune.save` wrote")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="default: DIR/narrow.onnx")
    parser.add_argument("--opset", type=int, default=Job.opset, metavar="N", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    import fxprune
    from fxprune.passes.store import ONNX, ONNX_DATA, check_no_result, folder_aside

    network = fxprune.load(args.folder)
    example = network.meta["example_inputs"]
    if args.output is not None:
        check_no_result(args.output)
        print(fxprune.export_onnx(network, example, args.output, opset=args.opset))
        return 0
    with folder_aside(args.folder, files=[ONNX_DATA, ONNX]) as aside:
        report = fxprune.export_onnx(network, example, aside / ONNX, opset=args.opset)
    print(replace(report, path=args.folder / ONNX))
    return 0
