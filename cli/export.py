"""Export the narrow network in a folder of results to ONNX, torch.export or timm, checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fxprune.passes.options import Job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress` or `fxprune.save`, a format, and where to."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `fxprune compress` or `fxprune.save` wrote")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("-o", "--output", metavar="PATH", type=Path, help="file, or folder for timm (default: in DIR)")
    parser.add_argument("--opset", type=int, default=Job.opset, metavar="N", help="of ONNX (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    FORMATS[args.format](args)
    return 0


def _onnx(args: argparse.Namespace) -> None:
    import fxprune
    from fxprune.passes.store import ONNX, ONNX_DATA, check_no_result, folder_aside

    network = fxprune.load(args.folder)
    example = network.meta["example_inputs"]
    if args.output is not None:
        check_no_result(args.output)
        print(fxprune.export_onnx(network, example, args.output, opset=args.opset))
        return
    with folder_aside(args.folder, files=[ONNX_DATA, ONNX]) as aside:
        report = fxprune.export_onnx(network, example, aside / ONNX, opset=args.opset)
    print(replace(report, path=args.folder / ONNX))


def _pt2(args: argparse.Namespace) -> None:
    import fxprune
    from fxprune.passes.onnx import export_pt2
    from fxprune.passes.store import check_no_result

    network, path = fxprune.load(args.folder), args.output or args.folder / "narrow.pt2"
    check_no_result(path)
    error = export_pt2(network, network.meta["plan"].example_inputs, path)
    print(f"{path}: {path.stat().st_size} bytes, relative error {error:.2g}")


def _timm(args: argparse.Namespace) -> None:
    from fxprune.passes.graft import export_timm
    from fxprune.passes.store import check_no_result

    folder = args.output or args.folder / "timm"
    for name in ("config.json", "model.safetensors"):
        check_no_result(folder / name)
    network = export_timm(args.folder, folder)
    print(f'{folder}: after `import fxprune.timm`, `timm.create_model("local-dir:{folder}", pretrained=True)` builds')
    print(f"{type(network).__name__} of {sum(p.numel() for p in network.parameters()):,} parameters.")


FORMATS: dict[str, Callable[[argparse.Namespace], None]] = {"onnx": _onnx, "pt2": _pt2, "timm": _timm}
