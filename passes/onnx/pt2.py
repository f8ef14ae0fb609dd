"""Export a network as a file of ``torch.export``, and check it as it is read back."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Sequence
from functools import partial
from typing import IO, Any

import torch
from torch import nn
from torch.export import ExportedProgram

from fxprune.arguments.batches import BatchRange, admitted
from fxprune.common.files import written_aside
from fxprune.common.silence import silenced
from fxprune.errors import ExportError
from fxprune.passes.verify import random_batch

from .names import returning_plain
from .program import (
    batches_of,
    eager_on_cpu,
    export_errors,
    exported_size,
    inputs_on_cpu,
    largest_error,
    run_eager,
    shapes_of,
)


def export_pt2(
    module: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    tolerance: float = 1e-4,
    batches: Sequence[int] = (1, 2, 3, 5),
    bound: BatchRange | None = None,
) -> float:
    """Export what the network computes in eval mode to ``torch.export``, for any batch size.

    Outputs in classes of their own are dicts and tuples in the file. Where guards bind the batch, so does the file, and
    :func:`~fxprune.passes.onnx.batches_of` says to what.

    Args:
        module: the network; neither its weights nor its training flag change.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name; axis 0 of tensors is the
            batch.
        path: the ``.pt2`` file, or a file object that is open for writing, as ``torch.export.save`` takes it.
        tolerance: bound on the relative error of the file, read back, in float32.
        batches: batch sizes at which the file and the network are compared.
        bound: what ``batches_of`` says, if it is known; None: it is asked.

    Returns:
        The largest relative error.

    Raises:
        ExportError: the network cannot be exported, or the file disagrees with it.
        OptionError: the example inputs hold no tensors with one common batch size.
    """
    inputs, eager = inputs_on_cpu(example_inputs), eager_on_cpu(module)
    name = str(path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "the given file"))
    bound = batches_of(eager, inputs) if bound is None else bound
    example = random_batch(inputs, exported_size(inputs, bound), seed=0)
    args, kwargs = ((), example) if isinstance(example, dict) else (example, {})
    with written_aside(path) as aside, export_errors(module, f"{name} with a dynamic batch"):
        with silenced(), torch.no_grad():
            program = torch.export.export(
                returning_plain(eager), args, kwargs, dynamic_shapes=shapes_of(example, bound)
            )
            _check_no_text(program, name)
            if bound.least > 1 and not bound.fixed:
                _assert_several(program, bound)
            torch.export.save(program, buffer := io.BytesIO())  # PyTorch ends the process where a disk is full
            aside.write_bytes(buffer.getbuffer())
            with open(aside, "rb") as file:
                read = torch.export.load(file).module()
        return largest_error(eager, partial(run_eager, read), example, name, tolerance, admitted(batches, bound))


def _check_no_text(program: ExportedProgram, name: str) -> None:
    """Refuse text among the outputs: torch.export writes it, and cannot read it back."""
    for spec in program.graph_signature.output_specs:
        if isinstance(text := getattr(spec.arg, "value", None), str):
            raise ExportError(
                f"the network returns the text {text[:40]!r}, and {name} can hold tensors and numbers only: leave it "
                "out, or name the outputs that count, `fxprune.couple(..., outputs=)`."
            )


def _assert_several(program: ExportedProgram, bound: BatchRange) -> None:
    """Assert the smallest batch when the program runs.

    Export takes every dynamic size for two or more, and checks none.
    """
    inputs = program.graph_signature.user_inputs
    first = next(n for n in program.graph.find_nodes(op="placeholder") if n.name in inputs and n.meta["val"].dim())
    with program.graph.inserting_before(next(n for n in program.graph.nodes if n.op != "placeholder")):
        size = program.graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
        size.meta["val"] = first.meta["val"].shape[0]
        holds = program.graph.call_function(operator.ge, (size, bound.least))
        holds.meta["val"] = size.meta["val"] >= bound.least
        program.graph.call_function(torch.ops.aten._assert_scalar.default, (holds, f"a batch of {bound}: {bound.why}"))
    program.graph_module.recompile()
