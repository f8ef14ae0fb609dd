"""An ONNX file stops at a batch that its network does not take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fxprune.arguments.batches import BatchRange

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


_LARGEST = 2**63 - 1


def require_bounds(program: ONNXProgram, bound: BatchRange) -> None:
    """Reshape the first input [N, ...] to [min(max(N, least), most), ...]: fails if not N.

    ONNX has no assertions, and runtimes drop what no output depends on.
    """
    if bound.fixed or (bound.least, bound.most) == (1, None):  # a fixed batch is a size of the inputs
        return
    import onnx_ir

    graph = program.model.graph
    given: Any = next(value for value in graph.inputs if value.shape is not None and len(value.shape))
    users = [use.node for use in given.uses()]
    tape = onnx_ir.tape.Tape()

    sizes = tape.op("Shape", [given])
    for name, first, others in (("Max", bound.least, 0), ("Min", bound.most, _LARGEST)):
        if first is not None:
            limits = onnx_ir.tensor([first, *[others] * (len(given.shape) - 1)], dtype=onnx_ir.DataType.INT64)
            sizes = tape.op(name, [sizes, tape.op("Constant", [], {"value": limits})])
    checked = tape.op("Reshape", [given, sizes])
    checked.type, checked.shape = given.type, given.shape
    graph.insert_before(graph[0], list(tape.nodes))
    for node in users:
        for index, value in enumerate(node.inputs):
            if value is given:
                node.replace_input_with(index, checked)


def fixed_batch(path: str | os.PathLike[str]) -> int | None:
    """Return the one batch size that a file takes; None: it takes others, too."""
    import onnx

    inputs = onnx.load(path, load_external_data=False).graph.input
    axes = [next(iter(value.type.tensor_type.shape.dim), None) for value in inputs]
    return next((int(axis.dim_value) for axis in axes if axis is not None and not axis.dim_param), None)
