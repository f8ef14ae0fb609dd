"""A network becomes an ONNX program: eval mode, one named batch axis, no noise on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.errors import ExportError
from fxprune.meta import copy_with

from .outputs import named_outputs

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


def eager_on_cpu(module: nn.Module) -> nn.Module:
    """The network in eval mode, in float32, on the CPU: a copy that shares the tensors that are already so."""

    def plain(_: str, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)

    return copy_with(module, plain).eval()


@torch.no_grad()
def run_eager(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Named outputs of a network; the inputs survive layers that work in place."""
    return named_outputs(module(*(x.clone() for x in inputs)))


def onnx_program(module: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> ONNXProgram:
    """The program's outputs are the network's, in the order of :func:`named_outputs`, for every batch.

    Args:
        module: from :func:`eager_on_cpu`.
        inputs: tensors [N, ...] on the CPU; N at least 2, since tracing may take a size of 1 for a constant.
        opset: version of the ONNX operators.

    Raises:
        ExportError: PyTorch cannot trace or convert the network.
    """
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} if x.dim() else {} for x in inputs)
    try:
        names = [re.sub(r"\W+", "_", path).strip("_") for path in run_eager(module, inputs)]
        with quiet():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                output_names=names,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever it meets on the way
        raise ExportError(
            f"{type(module).__name__} cannot be exported to ONNX opset {opset} with a dynamic batch: {_root(error)}. "
            "Make that line independent of the batch size and of tensor values, or ask for another opset."
        ) from error
    assert program is not None  # dynamo=True always returns one
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that a library prints, logs or warns leaves the block; its exceptions do."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)


def _root(error: BaseException) -> str:
    """The error at the bottom of the chain: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"
