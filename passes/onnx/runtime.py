"""Run an ONNX file in onnxruntime as a function of tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxprune.errors import CheckpointError, ExportError, OptionError, first_line, is_out_of_memory


def load_onnxruntime() -> Any:
    """Import onnxruntime; a call before training reports a missing package early.

    Raises:
        OptionError: it is not installed, or does not run here.
    """
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise OptionError(
            f"onnxruntime, which checks every exported file, cannot be loaded here ({error}): pip install onnxruntime."
        ) from error
    return onnxruntime


def onnx_runner(
    path: str | os.PathLike[str], *, threads: int | None = None, optimise: bool = True
) -> Callable[..., tuple[Tensor, ...]]:
    """Make the function ``run(*inputs)`` that runs the file in onnxruntime on the CPU.

    Args:
        path: the ``.onnx`` file; weights may lie beside it.
        threads: threads of one operator; None: as many as PyTorch uses, so that times are comparable.
        optimise: let onnxruntime rewrite the graph first.

    Returns:
        A function from tensors on any device, in the order of the file's inputs, to a tuple of CPU tensors, in the
        order of its outputs. It raises OptionError for another number of inputs, and ExportError if onnxruntime cannot
        run the file on them.

    Raises:
        CheckpointError: the file is missing, or onnxruntime cannot load it.
    """
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised anyway
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not os.path.isfile(path):
        raise CheckpointError(f"there is no ONNX file {os.fspath(path)}: export the network first.")
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no other common class
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"onnxruntime {onnxruntime.__version__} cannot load {os.fspath(path)} ({os.path.getsize(path)} bytes): "
            f"{first_line(error)}. Export it again."
        ) from error
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs) != len(names):
            raise OptionError(f"{os.fspath(path)} takes {len(names)} inputs ({', '.join(names)}), not {len(inputs)}.")
        feed = {name: x.detach().cpu().numpy() for name, x in zip(names, inputs)}
        try:
            return tuple(torch.from_numpy(value) for value in session.run(None, feed))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in zip(names, inputs))
            raise ExportError(f"onnxruntime cannot run {os.fspath(path)} on {shapes}: {error}") from error

    return run
