"""Export a network to OpenVINO's format, and check it as it is read back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.batches import admitted
from fxprune.arguments.inputs import tensors_of
from fxprune.common.files import written_with_weights
from fxprune.errors import OptionError
from fxprune.passes.verify import random_batch

from .export import export_onnx
from .program import batches_of, eager_on_cpu, export_errors, exported_size, inputs_on_cpu, largest_error


def export_openvino(
    module: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    tolerance: float = 1e-4,
    batches: Sequence[int] = (1, 2, 3, 5),
) -> float:
    """Export what the network computes in eval mode to OpenVINO, for any batch size.

    It is the checked ONNX file, converted in float32, and compared with the network again on OpenVINO's CPU.

    Args:
        module: the network; neither its weights nor its training flag change.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name; axis 0 of tensors is the
            batch.
        path: the ``.xml`` file; the weights get the same name with ``.bin``.
        tolerance: bound on the relative error.
        batches: batch sizes at which the file and the network are compared.

    Returns:
        The largest relative error.

    Raises:
        OptionError: openvino is not installed, the file is named otherwise, or the inputs have no common batch size.
        ExportError: the network cannot be exported, or the file disagrees with it.
    """
    path, inputs = Path(path), inputs_on_cpu(example_inputs)
    if path.suffix != ".xml":
        raise OptionError(f"{path} must end in .xml, as OpenVINO reads it.")
    weights = path.with_suffix(".bin")
    if os.path.lexists(weights) and not path.exists():
        raise OptionError(f"{weights} would be replaced by the weights of {path.name}: choose another name.")
    openvino, eager = _load(), eager_on_cpu(module)
    with written_with_weights(path, weights) as aside:
        export_onnx(module, inputs, aside.with_suffix(".onnx"), tolerance=tolerance, batches=batches)
        with export_errors(module, str(path)):
            model = openvino.convert_model(aside.with_suffix(".onnx"))
            openvino.save_model(model, aside, compress_to_fp16=False)
            run = _runner(openvino, aside)
            bound = batches_of(eager, inputs)
            example, sizes = random_batch(inputs, exported_size(inputs, bound), seed=0), admitted(batches, bound)
            worst = largest_error(eager, lambda given: run(*tensors_of(given)), example, str(path), tolerance, sizes)
    return worst


def _load() -> Any:
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise OptionError(f"openvino cannot be loaded here ({error}): pip install 'fxprune[openvino]'.") from error
    return openvino


def _runner(openvino: Any, path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a file for the CPU; other precisions than float32 are its user's choice."""
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        results = compiled([tensor.numpy() for tensor in tensors])
        return tuple(torch.as_tensor(results[output].copy()) for output in compiled.outputs)

    return run
