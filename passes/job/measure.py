"""Make the table of the main job: cost and accuracy of each form of the network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.costs import cost, milliseconds
from fxprune.errors import ExportError
from fxprune.models_zoo.data import preprocessing_of
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.report import Answer, Row
from fxprune.passes.store import ONNX, WEIGHTS, WIDE
from fxprune.passes.train import predict

from .answers import answers_of
from .trim import Nets

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data, Loader, Preprocessing

    from .samples import Samples


@dataclass(frozen=True)
class Measured:
    """The rows of the table, and some test images with the answers of both networks."""

    rows: tuple[Row, ...]
    answers: tuple[Answer, ...]


def measure_rows(nets: Nets, repaired: nn.Module | None, example: Tensor, data: Data, folder: Path) -> Measured:
    """Measure each form of the network, with the files that are already in the folder.

    Args:
        nets: on one device.
        repaired: the merge without C-SGD, repaired; None: it could not be made.
        example: [N, C, H, W] on the meta device.
        data: its test images are classified.
        folder: of the results, with the wide and the narrow weights and the ONNX file.
    """
    table = _Table(example, data.test, folder, nets.snapped)
    rows = (
        table.wide("wide, before C-SGD", nets.wide),
        table.row("merged without C-SGD", nets.merged),
        *([] if repaired is None else [table.row("the same, repaired", repaired)]),
        table.row("wide, after C-SGD", nets.trained),
        table.row("wide, after the snap", nets.snapped),
        *table.narrow("narrow, after the trim", nets.narrow),
    )
    return Measured(rows, table.answers(preprocessing_of(data), labelled=True))


def measure_folded(nets: Nets, example: Tensor, samples: Samples, folder: Path, repair: str) -> Measured:
    """Measure a fold, with the files that are already in the folder.

    Args:
        nets: on one device.
        example: [N, C, H, W] on the meta device.
        samples: of the fold; without a judge, only the cost is measured.
        folder: of the results.
        repair: which one the narrow network has.
    """
    table = _Table(example, samples.test if samples.judge else None, folder, nets.wide)
    rows = (
        table.wide("wide", nets.wide),
        table.row("merged, not repaired", nets.merged),
        *table.narrow("narrow, not repaired" if repair == "none" else f"narrow, repaired by {repair}", nets.narrow),
    )
    return Measured(rows, table.answers(nets.narrow.meta["preprocessing"], labelled=samples.judge == "labels"))


class _Table:
    """The rows of one network in several forms.

    Args:
        example: [N, C, H, W] on the meta device.
        test: images and classes; None: only the cost is measured.
        folder: of the results.
        reference: the form whose classes the others are compared with.
    """

    def __init__(self, example: Tensor, test: Loader | None, folder: Path, reference: nn.Module) -> None:
        self.example, self.test, self.folder = example, test, folder
        self.device = next(reference.parameters()).device
        self.image = torch.randn(1, *example.shape[1:], generator=torch.Generator().manual_seed(0))
        self.labels = None if test is None else torch.cat([classes for _, classes in test])
        self.reference = None if test is None else predict(reference, test, self.device)
        self.classes: dict[nn.Module, Tensor] = {}  # of every test image, by the networks in order

    def row(self, name: str, network: nn.Module, *, runner: nn.Module | None = None, **measured: Any) -> Row:
        """Measure a form of the network; ``runner`` runs on the CPU in its place."""
        counts = {"correct": 0, "count": 0, "changed": 0}
        if self.test is not None:
            assert self.labels is not None and self.reference is not None
            classes = predict(network, self.test, self.device) if runner is None else predict(runner, self.test)
            counts["correct"], counts["count"] = int((classes == self.labels).sum()), len(self.labels)
            counts["changed"] = int((classes != self.reference).sum())
            self.classes[network] = classes
        spent = cost(network, self.example[:1])
        return Row(name=name, params=spent.params, macs=spent.macs, **counts, **measured)

    def answers(self, preprocessing: Preprocessing, *, labelled: bool) -> tuple[Answer, ...]:
        """Show some test images, and what the first and the last network say."""
        if self.test is None:
            return ()
        first, *_, last = self.classes.values()
        return answers_of(self.test, first, last, preprocessing, labelled=labelled)

    def wide(self, name: str, network: nn.Module) -> Row:
        """Measure the network that the folder holds as the wide one."""
        return self.row(
            name,
            network,
            bytes=os.path.getsize(self.folder / WIDE),
            eager_ms=milliseconds(network, self.image.to(self.device)),
            onnxruntime_ms=_exported_ms(network, self.example, self.image),
        )

    def narrow(self, name: str, network: nn.Module) -> tuple[Row, Row]:
        """Measure the narrow network, and its exported file."""
        run = onnx_runner(self.folder / ONNX)
        return (
            self.row(
                name,
                network,
                bytes=os.path.getsize(self.folder / WEIGHTS),
                eager_ms=milliseconds(network, self.image.to(self.device)),
            ),
            self.row(
                "narrow, in onnxruntime",
                network,
                runner=_Runner(run),
                bytes=sum(file.stat().st_size for file in self.folder.glob(f"{ONNX}*")),
                onnxruntime_ms=milliseconds(run, self.image),
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
