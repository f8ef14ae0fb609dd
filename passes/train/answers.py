"""Ask a network about all test samples, score its answers, and find where another differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import as_inputs, run_on
from fxprune.arguments.outputs import counts, place_of
from fxprune.common.progress import steps
from fxprune.errors import DataError
from fxprune.models_zoo.data import CLASSIFICATION, Task, samples_in
from fxprune.passes.verify import named_outputs, rebuilt
from fxprune.pytorch.modules import precision_of

from .evaluate import EMPTY, Accuracy, evaluating
from .step import moved

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader

# A sample has changed if a floating-point output of it moved by more than this, in units of the largest of its batch.
# Members of a cluster that deviate by more count as unequal; what the merge itself rounds is a thousand times smaller.
MOVED = 1e-2


@dataclass(frozen=True)
class Score:
    """The value of a metric on how many samples."""

    value: float
    count: int
    name: str

    @property
    def short(self) -> str:
        """The value alone, as text."""
        return f"{self.value:.4g}"

    @property
    def numbers(self) -> Mapping[str, float]:
        """Return what the records of a training hold of it."""
        return {"metric": self.value}

    def __str__(self) -> str:
        return f"{self.name} {self.short} ({self.count} samples)"


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a network to all test samples, batch by batch, on the CPU.

    Attributes:
        task: what it is judged by.
        outputs: of each batch: classes int64 [N], or all that the network returned.
        targets: of each batch.
        sizes: number of samples in each batch.
    """

    task: Task
    outputs: Sequence[Any]
    targets: Sequence[Any]
    sizes: Sequence[int]

    @property
    def count(self) -> int:
        """The number of samples."""
        return sum(self.sizes)

    def score(self, *, finite: bool = True) -> Accuracy | Score:
        """Judge the answers by the task's metric.

        Args:
            finite: raise the error below for a number that is not.

        Raises:
            DataError: the metric returns no number, or no finite one.
        """
        if self.task.classifies:
            pairs = zip(self.outputs, self.targets, strict=True)
            return Accuracy(sum(int((classes == labels).sum()) for classes, labels in pairs), self.count)
        metric = self.task.metric
        if hasattr(metric, "update") and hasattr(metric, "compute"):
            metric.reset()
            for outputs, targets in zip(self.outputs, self.targets, strict=True):
                metric.update(outputs, targets)
            value = metric.compute()
        else:
            value = metric(_joined(self.outputs), _joined(self.targets))
        try:
            score = Score(float(value), self.count, self.task.name)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"the metric `{self.task.name}` returned {type(value).__name__}, not a number.") from error
        if finite and not math.isfinite(score.value):
            raise DataError(
                f"the metric `{self.task.name}` is {score.value} on {self.count} test samples: where it is not "
                "defined, return a number that says so, such as 0."
            )
        return score

    def changed(self, other: Answers) -> int:
        """Count the samples that another network answers differently.

        Integers, as classes, must be equal; of floating-point outputs see :data:`MOVED`.
        """
        batches = zip(self.outputs, other.outputs, self.sizes, strict=True)
        return sum(int(_changed(ours, theirs, size, self.task.outputs).sum()) for ours, theirs, size in batches)


@torch.no_grad()
def answers(
    model: Callable[..., Any], loader: Loader, device: str | torch.device = "cpu", task: Task = CLASSIFICATION
) -> Answers:
    """Ask a network all test samples, in evaluation mode; its modes are restored.

    Args:
        model: takes the inputs of a batch; its parameters lie on ``device``.
        loader: batches of inputs and targets, in a fixed order.
        device: where the network is.
        task: a network for classes keeps only these; all outputs of another one are held in memory.

    Raises:
        DataError: the loader is empty.
    """
    net = model if isinstance(model, nn.Module) else nn.Module()
    dtype = precision_of(net)
    found: tuple[list[Any], list[Any], list[int]] = [], [], []
    with evaluating(net), torch.inference_mode():
        for inputs, targets in steps(loader, "test batch"):
            given = moved(inputs, torch.device(device), dtype=dtype)
            outputs = run_on(model, as_inputs(given))
            kept = outputs.argmax(1) if task.classifies else outputs
            for values, value in zip(
                found, (moved(kept, torch.device("cpu")), targets, samples_in(inputs)), strict=True
            ):
                values.append(value)
    if not found[2]:
        raise DataError(EMPTY)
    return Answers(task, *found)


def _changed(ours: Any, theirs: Any, size: int, outputs: Sequence[str] | None) -> Tensor:
    """Tell of each sample whether any of its outputs differs."""
    changed = torch.zeros(size, dtype=torch.bool)
    a, b = (
        {name: x for name, x in named_outputs(each).items() if counts(place_of(name), outputs)}
        for each in (ours, theirs)
    )
    if {name: x.shape for name, x in a.items()} != {name: x.shape for name, x in b.items()}:
        return ~changed
    for x, y in zip(a.values(), b.values(), strict=True):
        same = (x == y) | (x.isnan() & y.isnan())
        if x.is_floating_point():
            finite = x[x.isfinite()]
            same |= (x - y).abs() <= MOVED * (float(finite.abs().max()) if finite.numel() else 0.0)
        by_sample = x.dim() > 0 and len(x) == size
        changed |= ~(same.reshape(size, -1).all(1) if by_sample else same.all())
    return changed


def _joined(batches: Sequence[Any]) -> Any:
    """Concatenate batches of one structure along the samples; numbers are those of the first."""
    if isinstance(batches[0], Tensor):
        return torch.cat(list(batches)) if batches[0].dim() else batches[0]
    named = [named_outputs(batch) for batch in batches]
    return rebuilt(batches[0], (_joined([each[name] for each in named]) for name in named[0]))
