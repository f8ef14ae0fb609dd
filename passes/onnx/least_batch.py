"""An ONNX file stops at a batch below the smallest one that its network takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprune.arguments.batches import BatchRange

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


def require_least(program: ONNXProgram, bound: BatchRange) -> None:
    """Reshape the first input [N, ...] to [max(N, least), ...], which fails where N is smaller.

    ONNX has no assertions, and runtimes drop what no output depends on.
    """
    if bound.fixed or bound.least == 1:  # a fixed batch is a size of the inputs
        return
    import onnx_ir

    graph = program.model.graph
    given: Any = next(value for value in graph.inputs if value.shape is not None and len(value.shape))
    users = [use.node for use in given.uses()]
    tape = onnx_ir.tape.Tape()

    least = onnx_ir.tensor([bound.least, *[0] * (len(given.shape) - 1)], dtype=onnx_ir.DataType.INT64)
    sizes = tape.op("Max", [tape.op("Shape", [given]), tape.op("Constant", [], {"value": least})])
    checked = tape.op("Reshape", [given, sizes])
    checked.type, checked.shape = given.type, given.shape
    graph.insert_before(graph[0], list(tape.nodes))
    for node in users:
        for place, value in enumerate(node.inputs):
            if value is given:
                node.replace_input_with(place, checked)
