"""Make the table of the main job: cost and accuracy of each form of the network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.costs import cost, milliseconds
from fxprune.errors import ExportError
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.report import Row
from fxprune.passes.train import predict

from .trim import Nets

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


def measure_rows(nets: Nets, example: Tensor, data: Data, folder: Path) -> tuple[Row, ...]:
    """Measure each form of the network, with the files that are already in the folder.

    Args:
        nets: on one device.
        example: [N, C, H, W] on the meta device.
        data: its test images are classified.
        folder: of the results, with the wide and the narrow weights and the ONNX file.
    """
    labels = torch.cat([classes for _, classes in data.test])
    device = next(nets.snapped.parameters()).device
    reference = predict(nets.snapped, data.test, device)
    image = torch.randn(1, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    run = onnx_runner(folder / "narrow.onnx")

    def row(name: str, network: nn.Module, *, classes: Tensor | None = None, **measured: Any) -> Row:
        classes = predict(network, data.test, device) if classes is None else classes
        spent = cost(network, example[:1])
        return Row(
            name=name,
            params=spent.params,
            macs=spent.macs,
            correct=int((classes == labels).sum()),
            count=len(labels),
            changed=int((classes != reference).sum()),
            **measured,
        )

    return (
        row(
            "wide, before C-SGD",
            nets.wide,
            bytes=os.path.getsize(folder / "wide.safetensors"),
            eager_ms=milliseconds(nets.wide, image.to(device)),
            onnxruntime_ms=_exported_ms(nets.wide, example, image),
        ),
        row("merged without C-SGD", nets.merged),
        row("wide, after C-SGD", nets.trained),
        row("wide, after the snap", nets.snapped, classes=reference),
        row(
            "narrow, after the trim",
            nets.narrow,
            bytes=os.path.getsize(folder / "weights.safetensors"),
            eager_ms=milliseconds(nets.narrow, image.to(device)),
        ),
        row(
            "narrow, in onnxruntime",
            nets.narrow,
            classes=predict(_Runner(run), data.test),
            bytes=sum(file.stat().st_size for file in folder.glob("narrow.onnx*")),
            onnxruntime_ms=milliseconds(run, image),
        ),
    )


def versions() -> dict[str, str]:
    """Return the versions of everything that a measurement depends on."""
    packages = ("fxprune", "torch", "timm", "onnx", "onnxruntime", "scikit-learn")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
            continue
    return found


class _Runner(nn.Module):
    """An ONNX file in the form of a network."""

    def __init__(self, run: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, C, H, W] to the file's first output."""
        return self._run(images)[0]


def _exported_ms(network: nn.Module, example: Tensor, image: Tensor) -> float | None:
    """Time the wide network in onnxruntime, for comparison; None if it cannot be exported."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(network, example, Path(folder) / "wide.onnx")
        except ExportError:
            return None
        return milliseconds(onnx_runner(Path(folder) / "wide.onnx"), image)
