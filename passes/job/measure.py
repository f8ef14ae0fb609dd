"""Make the table of the main job: cost and accuracy of each form of the network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.arguments.batches import BatchRange, admitted, graph_batches
from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.costs import PairedTimes, alternated, cost, milliseconds
from fxprune.errors import ExportError
from fxprune.models_zoo.data import preprocessing_of
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.report import Row, ShownImage
from fxprune.passes.store import ONNX, WEIGHTS, WIDE
from fxprune.passes.train import Accuracy, answers, moved
from fxprune.passes.verify import batched_inputs, random_batch, rebuilt

from .result_files import for_the_report, shown_images
from .trim import Nets, Tested

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data, Preprocessing
    from fxprune.passes.train import Answers

    from .samples import Samples


@dataclass(frozen=True)
class Measured:
    """The rows of the table, and some test images with the answers of both networks.

    Attributes:
        rows: one for each form of the network.
        pairs: how many pairs of times of the wide and the narrow network the fewest-timed runtime has.
        answers: of both networks, to some test images.
    """

    rows: tuple[Row, ...]
    pairs: int
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
    table = _Table(example, data, folder, nets, nets.snapped)
    rows = (
        table.wide("wide, before C-SGD", nets.wide),
        table.row("merged without C-SGD", nets.merged),
        *([] if repaired is None else [table.row("the same, repaired", repaired)]),
        table.row("wide, after C-SGD", nets.trained),
        table.row("wide, after the snap", nets.snapped),
        *table.narrow("narrow, after the trim", nets.narrow),
    )
    return Measured(rows, table.pairs, table.answers(preprocessing_of(data), labelled=True))


def measure_folded(nets: Nets, example: Tensor, samples: Samples, folder: Path, repair: str) -> Measured:
    """Measure a fold, with the files that are already in the folder.

    Args:
        nets: on one device.
        example: [N, C, H, W] on the meta device.
        samples: of the fold; without a judge, only the cost is measured.
        folder: of the results.
        repair: which one the narrow network has.
    """
    table = _Table(example, samples if samples.judge else None, folder, nets, nets.wide)
    rows = (
        table.wide("wide", nets.wide),
        table.row("merged, not repaired", nets.merged),
        *table.narrow("narrow, not repaired" if repair == "none" else f"narrow, repaired by {repair}", nets.narrow),
    )
    shown = table.answers(nets.narrow.meta["preprocessing"], labelled=samples.judge == "labels")
    return Measured(rows, table.pairs, shown)


class _Table:
    """The rows of one network in several forms.

    Args:
        example: [N, C, H, W] on the meta device, or other inputs.
        data: has test samples; None: only the cost is measured.
        folder: of the results.
        nets: the narrow one says which batches are taken: times are those of the smallest, for one sample.
        reference: the form whose answers the others are compared with.
    """

    def __init__(self, example: Any, data: Tested | None, folder: Path, nets: Nets, reference: nn.Module) -> None:
        self.data, self.folder = data, folder
        self.device = next(reference.parameters()).device
        bound = graph_batches(nets.narrow, batched_inputs(example))
        self.batch = admitted([1], bound)[0]
        self.image = random_batch(batched_inputs(example), self.batch, seed=0)
        self.reference = None if data is None else answers(reference, data.test, self.device, data.task)
        self.given: list[Answers] = []  # by the networks in order
        self.run = onnx_runner(folder / ONNX)
        image = moved(self.image, self.device)
        self.eager = alternated(partial(run_on, nets.wide, image), partial(run_on, nets.narrow, image))
        self.exported = self._exported_times(nets.wide, example, bound)

    def _exported_times(self, wide: nn.Module, example: Any, bound: BatchRange) -> PairedTimes | None:
        """Time both networks in onnxruntime; None if the wide one cannot be exported."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "wide.onnx"
            try:
                export_onnx(wide, example, path, batches=admitted((1, 2, 3, 5), bound))
            except ExportError:
                return None
            image = tensors_of(self.image)
            return alternated(partial(onnx_runner(path), *image), partial(self.run, *image))

    @property
    def pairs(self) -> int:
        """The number of pairs of times, of the runtime that has fewer."""
        return min(times.pairs for times in (self.eager, self.exported) if times is not None)

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

    def wide(self, name: str, network: nn.Module) -> Row:
        """Measure the network that the folder holds as the wide one."""
        return self.row(
            name,
            network,
            bytes=os.path.getsize(self.folder / WIDE),
            eager_ms=self.eager.first_ms / self.batch,
            onnxruntime_ms=None if self.exported is None else self.exported.first_ms / self.batch,
        )

    def narrow(self, name: str, network: nn.Module) -> tuple[Row, Row]:
        """Measure the narrow network, and its exported file."""
        image = tuple(tensors_of(self.image))
        exported_ms = milliseconds(self.run, image) if self.exported is None else self.exported.second_ms
        size, eager_ms = os.path.getsize(self.folder / WEIGHTS), self.eager.second_ms / self.batch
        return (
            self.row(name, network, bytes=size, eager_ms=eager_ms),
            self.row(
                "narrow, in onnxruntime",
                network,
                runner=_Runner(self.run, network, moved(self.image, self.device)),
                bytes=sum(file.stat().st_size for file in self.folder.glob(f"{ONNX}*")),
                onnxruntime_ms=exported_ms / self.batch,
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
