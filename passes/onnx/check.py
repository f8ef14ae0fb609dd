"""Check that an exported file computes in onnxruntime what the network computes in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxprune.arguments.batches import admitted
from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.errors import ExportError, FxpruneError
from fxprune.passes.verify import random_batch, relative_error

from .batch_bounds import fixed_batch
from .localise import first_value
from .program import batches_of, eager_on_cpu, inputs_on_cpu, run_eager
from .runtime import onnx_runner


@dataclass(frozen=True)
class Agreement:
    """The difference between the outputs of a file and of its network.

    Attributes:
        errors: batch size -> largest |eager - onnxruntime| over the largest |eager|, of the worst output.
        same_argmax: both choose the same class for every sample with a clear class.
    """

    errors: Mapping[int, float]
    same_argmax: bool

    @property
    def max_rel_error(self) -> float:
        """Largest relative error of all batches."""
        return max(self.errors.values())


def check_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    tolerance: float = 1e-4,
    batches: Sequence[int] = (1, 2, 3, 5),
) -> Agreement:
    """Check on random inputs that onnxruntime gives the outputs and classes of eager float32.

    The class of a sample is the arg-max over axis 1 of an output [N, classes, ...]. It is clear if the network's best
    value exceeds the next one by more than the tolerance times the largest output; otherwise either class is right.

    Args:
        module: the network; a copy of it runs in eval mode on the CPU.
        path: the ``.onnx`` file.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name.
        tolerance: bound on the relative error. Two float32 kernels that sum in different orders differ by 1e-6 in the
            networks measured; a wrong weight moves the output by 1e-2.
        batches: batch sizes to try, of those that the network takes. 1 finds accidental broadcasts; 2, 3 and 5 find
            fixed batch sizes.

    Raises:
        ExportError: they disagree; the message names the first value in the file that does.
        CheckpointError: onnxruntime cannot load the file.
    """
    eager, run = eager_on_cpu(module), onnx_runner(path)
    inputs = inputs_on_cpu(example_inputs)
    errors: dict[int, float] = {}
    fixed = fixed_batch(path)
    for batch in [fixed] if fixed else admitted(batches, batches_of(eager, inputs)):
        drawn = random_batch(inputs, batch, seed=batch)
        wanted, got = run_eager(eager, drawn), run(*tensors_of(drawn))
        if len(wanted) != len(got):
            raise ExportError(
                f"{os.fspath(path)} has {len(got)} outputs, the network {len(wanted)}: {', '.join(wanted)}."
            )
        error = {name: relative_error(a, b) for (name, a), b in zip(wanted.items(), got)}
        errors[batch] = max(error.values())
        swapped = [name for (name, a), b in zip(wanted.items(), got) if not _same_class(a, b, tolerance)]
        if errors[batch] > tolerance or swapped:
            worst = max(error, key=lambda name: error[name]) if errors[batch] > tolerance else swapped[0]
            raise ExportError(
                f"{os.fspath(path)} and the network disagree at a batch of {batch}: `{worst}` differs by "
                f"{error[worst]:.3g} of its largest value (tolerance {tolerance:.3g})"
                f"{', and a sample changes its class' if swapped else ''}. {_where(eager, path, drawn, tolerance)} "
                "Do not use the file."
            )
    return Agreement(errors, same_argmax=True)


def _same_class(eager: Tensor, other: Tensor, tolerance: float) -> bool:
    if eager.dim() < 2 or eager.shape[1] < 2 or eager.shape != other.shape or not eager.is_floating_point():
        return True
    best = eager.topk(2, dim=1).values
    clear = best.select(1, 0) - best.select(1, 1) > tolerance * eager.abs().max()
    return bool((eager.argmax(1) == other.argmax(1))[clear].all())


def _where(eager: nn.Module, path: str | os.PathLike[str], inputs: Inputs, tolerance: float) -> str:
    try:
        divergence = first_value(eager, path, inputs, tolerance)
    except FxpruneError as error:  # report the disagreement, even if its cause cannot be found
        return f"The first diverging value could not be found: {error}"
    return str(divergence or "No value diverges while it is looked at: onnxruntime goes wrong in a fused kernel.")
