"""Export the narrow network of a folder to ONNX, Python, torch.export, OpenVINO or timm."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprune.common.progress import phase
from fxprune.errors import OptionError
from fxprune.passes.options import Job

from ..options import add_options, as_path, check_written, given_options
from ..reply import Reply, next_steps, quoted, verify_step

if TYPE_CHECKING:
    from fxprune.arguments.batches import BatchRange


@dataclass(frozen=True)
class Format:
    """A format of ``--format``.

    Attributes:
        files: the names that a folder of results has for them, the main one last.
        write: writes a network, given example inputs, a path and the options, and returns a report with its ``path``.
    """

    files: tuple[str, ...]
    write: Callable[[Any, Any, Path, argparse.Namespace], Any]


def _onnx(network: Any, example: Any, path: Path, args: argparse.Namespace) -> Any:
    import fxprune

    return fxprune.export_onnx(network, example, path, **given_options(args, Job, {"opset"}))


def _python(network: Any, example: Any, path: Path, args: argparse.Namespace) -> Any:
    import fxprune

    return fxprune.export_python(network, example, path)


def _pt2(network: Any, example: Any, path: Path, args: argparse.Namespace) -> Any:
    from fxprune.passes.onnx import batches_of, eager_on_cpu, export_pt2

    bound = batches_of(eager_on_cpu(network), example)
    return _Report(path, export_pt2(network, example, path, bound=bound), bound)


def _openvino(network: Any, example: Any, path: Path, args: argparse.Namespace) -> Any:
    from fxprune.passes.onnx import batches_of, eager_on_cpu, export_openvino

    return _Report(path, export_openvino(network, example, path), batches_of(eager_on_cpu(network), example))


@dataclass(frozen=True)
class _Report:
    """A written file; prints as a line."""

    path: Path
    max_rel_error: float
    batch: BatchRange

    def __str__(self) -> str:
        sizes = f"a batch of {self.batch}, since {self.batch.why}" if self.batch.why else "any batch size"
        return f"{self.path}: relative error {self.max_rel_error:.2g}, read back, at {sizes}"


FORMATS: Mapping[str, Format] = {
    "onnx": Format(("narrow.onnx.data", "narrow.onnx"), _onnx),
    "python": Format(("narrow.safetensors", "narrow.py"), _python),
    "pt2": Format(("narrow.pt2",), _pt2),
    "openvino": Format(("narrow.bin", "narrow.xml"), _openvino),
}
TIMM = "timm"  # a folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a folder of `fxprune compress` or `fxprune.save`, a format, and a file."""
    parser.add_argument("folder", metavar="DIR", type=as_path, help="what `fxprune compress` or `fxprune.save` wrote")
    parser.add_argument("--format", choices=[*FORMATS, TIMM], default="onnx", help="default: %(default)s")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=as_path, help="file, or folder for timm (default: in DIR)"
    )
    add_options(parser, Job, only={"opset"})


def run(args: argparse.Namespace) -> Reply:
    """Export the network."""
    import fxprune
    from fxprune.passes.store import folder_aside

    if hasattr(args, "opset") and args.format != "onnx":
        raise OptionError(f"--opset is for --format onnx, not {args.format}.")
    if args.format == TIMM:
        return _timm(args)
    phase("export", f"{args.folder} to {args.format}, and run what was written")
    chosen = FORMATS[args.format]
    network = fxprune.load(args.folder)
    example = network.meta["example_inputs"]
    if args.output is not None:
        check_written(args, "output")
        return _reply(args, chosen.write(network, example, args.output, args))
    name = chosen.files[-1]
    with folder_aside(args.folder, files=list(chosen.files)) as aside:
        report = chosen.write(network, example, aside / name, args)
    return _reply(args, replace(report, path=args.folder / name))


def _reply(args: argparse.Namespace, report: Any) -> Reply:
    value = {"format": args.format, "path": report.path, "max_rel_error": report.max_rel_error}
    if bound := getattr(report, "batch", None):  # the source of a network runs as it is
        value["batch"] = {"least": bound.least, "most": bound.most, "why": bound.why}
    return Reply(f"{report}{next_steps(verify_step(args.folder))}", lambda: value)


def _timm(args: argparse.Namespace) -> Reply:
    from fxprune.passes.graft import export_timm

    folder = args.output or args.folder / TIMM
    phase("graft", f"{args.folder} into its class, and prove it")
    network = export_timm(args.folder, folder)
    params = sum(p.numel() for p in network.parameters())
    text = (
        f'{folder}: after `import fxprune.timm`, `timm.create_model("local-dir:{folder}", pretrained=True)` builds\n'
        f"{type(network).__name__} of {params:,} parameters."
    )
    address = quoted(f"local-dir:{folder}")
    text += next_steps({f"inspect {address}": "as of any model: plan, prove and compress take it, too"})
    return Reply(text, lambda: {"format": TIMM, "path": folder, "parameters": params, "max_rel_error": 0.0})
