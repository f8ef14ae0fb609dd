"""Find the first value of an exported file, in graph order, that differs from the network."""

from __future__ import annotations

import ast
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.passes.verify import named_outputs, relative_error, repeat_to

from .program import batches_of, exported_size, onnx_program, run_eager
from .runtime import onnx_runner


@dataclass(frozen=True)
class Divergence:
    """The first value that differs; prints as a sentence.

    Attributes:
        value: its name in the file.
        operator: the ONNX operator that computes it.
        module: qualified name of the network's module that computes it; empty for the network itself.
        error: relative error of the value.
        culprit: the step that made it wrong.
    """

    value: str
    operator: str
    module: str
    error: float
    culprit: str

    def __str__(self) -> str:
        where = f"module `{self.module}`" if self.module else "the network's own forward"
        return (
            f"The first diverging value is `{self.value}` ({self.operator}, in {where}), off by {self.error:.3g} of "
            f"its largest value; it went wrong in {self.culprit}."
        )


def first_value(eager: nn.Module, path: str | os.PathLike[str], inputs: Inputs, tolerance: float) -> Divergence | None:
    """Find the first value that diverges in the file as written, else as it is optimised.

    The exporter names the file's values after the nodes of the traced program, even if it fuses several into one. So
    this traces the program again and compares its values with those of the file, in graph order.

    Returns:
        The divergence; None if a value is wrong only inside a fused kernel, where it cannot be read.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    truth = list(run_eager(eager, inputs).values())
    traced, traced_truth = _trace(eager, inputs, opset)
    outputs = dict(zip((value.name for value in model.graph.output), truth))
    expected = traced | outputs
    faithful = all(relative_error(a, b) <= tolerance for a, b in zip(truth, traced_truth))
    suspects = {
        False: "the conversion to ONNX" if faithful else "the trace by torch.export",
        True: "the graph optimisations of onnxruntime",
    }
    order = [name for node in model.graph.node for name in node.output if name in expected]
    makers = {name: node for node in model.graph.node for name in node.output}
    with _exposing(model, order, Path(path)) as exposed:
        for optimise, culprit in suspects.items():
            for value, tensor in zip(order, onnx_runner(exposed, optimise=optimise)(*tensors_of(inputs))):
                error = relative_error(expected[value], tensor)
                # A value of another shape is the same value in another layout, unless it is an output.
                if error > tolerance and (value in outputs or tensor.shape == expected[value].shape):
                    return Divergence(value, makers[value].op_type, _module_of(makers[value]), error, culprit)
    return None


def _trace(eager: nn.Module, inputs: Inputs, opset: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Run the program that the exporter converts; return its values by name, and its outputs."""
    bound = batches_of(eager, inputs)
    program = onnx_program(eager, repeat_to(inputs, exported_size(inputs, bound)), opset, bound).exported_program
    assert program is not None
    recorder = _Recorder(program.module())
    with torch.no_grad():
        # The unlifted program takes a flat list of inputs.
        outputs = recorder.run(*(x.clone() for x in tensors_of(inputs)))
    return recorder.values, list(named_outputs(outputs).values())


class _Recorder(fx.Interpreter):
    """An interpreter that records the result of each operation."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and torch.is_tensor(value):
            self.values[n.name] = value.clone()
        return value


@contextlib.contextmanager
def _exposing(model: Any, names: list[str], path: Path) -> Iterator[str]:
    """Write a temporary ONNX file whose outputs are these values, beside ``path``.

    There it finds weights that are stored outside of the file.
    """
    import onnx

    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as file:
        file.write(model.SerializeToString())
        file.flush()
        yield file.name


def _module_of(node: Any) -> str:
    """Return the innermost module's name from the exporter's scopes: root, modules, operation."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = ast.literal_eval(scopes)[:-1]
    return str(modules[-1]) if modules else ""
