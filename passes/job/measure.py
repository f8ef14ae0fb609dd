"""Make the table of the main job: cost and accuracy of each form of the network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.batches import BatchRange, admitted, graph_batches
from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.costs import cost, milliseconds
from fxprune.errors import ExportError
from fxprune.models_zoo.data import preprocessing_of
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.report import Row, ShownImage
from fxprune.passes.store import ONNX, WEIGHTS, WIDE
from fxprune.passes.train import Accuracy, answers, moved
from fxprune.passes.verify import as_inputs, batch_of, random_batch, rebuilt

from .recorded import for_the_report
from .shown_images import shown_images
from .trim import Nets, Tested

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data, Preprocessing
    from fxprune.passes.train import Answers

    from .samples import Samples


@dataclass(frozen=True)
class Measured:
    """The rows of the table, and some test images with the answers of both networks."""

    rows: tuple[Row, ...]
    answers: tuple[ShownImage, ...]


def measure_rows(nets: Nets, repaired: nn.Module | None, example: Any, data: Data, folder: Path) -> Measured:
    """Measure each form of the network, with the files that are already in the folder.

    Args:
        nets: on one device.
        repaired: the merge without C-SGD, repaired; None: it could not be made.
        example: [N, C, H, W] on the meta device, or other inputs.
        data: its test samples are asked.
        folder: of the results, with the wide and the narrow weights and the ONNX file.
    """
    table = _Table(example, data, folder, nets.snapped, nets.narrow)
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
    table = _Table(example, samples if samples.judge else None, folder, nets.wide, nets.narrow)
    rows = (
        table.wide("wide", nets.wide),
        table.row("merged, not repaired", nets.merged),
        *table.narrow("narrow, not repaired" if repair == "none" else f"narrow, repaired by {repair}", nets.narrow),
    )
    return Measured(rows, table.answers(nets.narrow.meta["preprocessing"], labelled=samples.judge == "labels"))


class _Table:
    """The rows of one network in several forms.

    Args:
        example: [N, C, H, W] on the meta device, or other inputs.
        data: has test samples; None: only the cost is measured.
        folder: of the results.
        reference: the form whose answers the others are compared with.
        narrow: says which batches are taken: times are those of the smallest, for one sample.
    """

    def __init__(
        self, example: Any, data: Tested | None, folder: Path, reference: nn.Module, narrow: fx.GraphModule
    ) -> None:
        self.example, self.data, self.folder = example, data, folder
        self.device = next(reference.parameters()).device
        self.bound = graph_batches(narrow, as_inputs(example))
        self.batch = admitted([1], self.bound)[0]
        self.image = random_batch(as_inputs(example), self.batch, seed=0)
        self.reference = None if data is None else answers(reference, data.test, self.device, data.task)
        self.given: list[Answers] = []  # by the networks in order

    def row(self, name: str, network: nn.Module, *, runner: nn.Module | None = None, **measured: Any) -> Row:
        """Measure a form of the network; ``runner`` runs on the CPU in its place."""
        counts: dict[str, Any] = {"correct": 0, "count": 0, "changed": 0}
        if self.data is not None:
            assert self.reference is not None
            device = self.device if runner is None else "cpu"
            given = answers(runner or network, self.data.test, device, self.data.task)
            score = given.score(finite=False)  # a merge without C-SGD may answer anything
            counts |= {"count": given.count, "changed": given.changed(self.reference)}
            counts |= {"correct": score.correct} if isinstance(score, Accuracy) else {"value": score.value}
            self.given = [*self.given[:1], given]
        spent = cost(network, self.image)
        return Row(name=name, params=spent.params, macs=spent.macs // self.batch, **counts, **measured)

    def answers(self, preprocessing: Preprocessing | None, *, labelled: bool) -> tuple[ShownImage, ...]:
        """Show some test images, and which classes the first and the last network say."""
        if self.data is None or preprocessing is None or not self.data.task.classifies:
            return ()
        first, last = (torch.cat(list(given.outputs)) for given in self.given)
        found: tuple[ShownImage, ...] = ()
        with for_the_report("test images were"):
            found = shown_images(self.data.test, first, last, preprocessing, labelled=labelled)
        return found

    def _eager_ms(self, network: nn.Module) -> float:
        return milliseconds(network, moved(self.image, self.device)) / self.batch

    def wide(self, name: str, network: nn.Module) -> Row:
        """Measure the network that the folder holds as the wide one."""
        return self.row(
            name,
            network,
            bytes=os.path.getsize(self.folder / WIDE),
            eager_ms=self._eager_ms(network),
            onnxruntime_ms=_exported_ms(network, self.example, self.image, self.bound),
        )

    def narrow(self, name: str, network: nn.Module) -> tuple[Row, Row]:
        """Measure the narrow network, and its exported file."""
        run = onnx_runner(self.folder / ONNX)
        return (
            self.row(name, network, bytes=os.path.getsize(self.folder / WEIGHTS), eager_ms=self._eager_ms(network)),
            self.row(
                "narrow, in onnxruntime",
                network,
                runner=_Runner(run, network, moved(self.image, self.device)),
                bytes=sum(file.stat().st_size for file in self.folder.glob(f"{ONNX}*")),
                onnxruntime_ms=milliseconds(run, tuple(tensors_of(self.image))) / self.batch,
            ),
        )


class _Runner(nn.Module):
    """An ONNX file in the form of a network, which returns what the network returns."""

    def __init__(self, run: Callable[..., tuple[Tensor, ...]], network: nn.Module, image: Inputs) -> None:
        super().__init__()
        self._run = run
        with torch.inference_mode():
            self._outputs = run_on(network, image)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file on the tensors among the inputs."""
        return rebuilt(self._outputs, self._run(*tensors_of(kwargs or args)))


def _exported_ms(network: nn.Module, example: Any, image: Inputs, bound: BatchRange) -> float | None:
    """Time the wide network in onnxruntime, for comparison; None if it cannot be exported."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_onnx(network, example, Path(folder) / "wide.onnx", batches=admitted((1, 2, 3, 5), bound))
        except ExportError:
            return None
        run = onnx_runner(Path(folder) / "wide.onnx")
        return milliseconds(run, tuple(tensors_of(image))) / batch_of(image)
