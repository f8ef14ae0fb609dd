"""Export a network to an ONNX file, and check the file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import nn

from fxprune.arguments.batches import ANY_BATCH, BatchRange, admitted
from fxprune.arguments.inputs import batch_of
from fxprune.common.files import named_in_errors, written_with_weights
from fxprune.common.silence import silenced
from fxprune.common.table import table
from fxprune.errors import ExportError
from fxprune.passes.verify import random_batch
from fxprune.plan_file import meta_of

from .batch_bounds import require_bounds
from .check import check_onnx
from .program import BatchInAttributeError, batches_of, eager_on_cpu, exported_size, inputs_on_cpu, onnx_program

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

# A protobuf message ends at 2 GiB; the graph itself needs some of that.
INLINE_BYTES = 1_900_000_000


@dataclass(frozen=True)
class ExportReport:
    """The exported file and its errors against the network; prints as a sentence and a table.

    Attributes:
        path: the ``.onnx`` file; for a file object, its name.
        opset: version of the ONNX operators, as read back from the file.
        size: bytes on disk, including weights in a file beside it.
        errors: batch size -> relative error of onnxruntime against eager float32.
        same_argmax: onnxruntime chooses the same classes.
        inputs: names of the file's inputs.
        outputs: names of the file's outputs, in the order of the network's.
        batch: the batch sizes that the file takes, and the decision of the network that binds it.
    """

    path: Path
    opset: int
    size: int
    errors: Mapping[int, float]
    same_argmax: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: BatchRange = ANY_BATCH

    @property
    def max_rel_error(self) -> float:
        """Largest relative error of all batches."""
        return max(self.errors.values())

    def __str__(self) -> str:
        head = (
            f"{self.path}: opset {self.opset}, {self.size} bytes, {', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        )
        head += f"\nbatch: {self.batch}, since {self.batch.why}" if self.batch.why else ""
        return head + "\n\n" + table(("batch", "relative error"), self.errors.items(), right="batch relative error")


def export_onnx(
    module: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str] | IO[bytes],
    *,
    opset: int = 20,
    tolerance: float = 1e-4,
    batches: Sequence[int] = (1, 2, 3, 5),
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Export what the network computes in eval mode, for any batch size that it takes.

    Where guards bind the batch, to two samples and more or to that of the example, so does the file, which fails at
    another one: the report and its property ``batch`` say so. The batch is that of the example, too, where an attribute
    of an ONNX operator depends on it, such as one group for each sample.

    The file is written under a temporary name and renamed, so that a failed export leaves nothing behind. Only a file
    that disagrees with the network stays, so that you can examine it. Weights of 1.9 GB and more go into
    ``NAME.onnx.data`` beside it.

    Args:
        module: the network; neither its weights nor its training flag change.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name; axis 0 of tensors is the
            batch. Only shapes and types matter, and the values of integers, which may be indices.
        path: the ``.onnx`` file, or a file object that is open for writing bytes.
        opset: version of the ONNX operators. From 20 on, GELU is one operator. Versions before 18 need a conversion
            that may fail.
        tolerance: bound on the relative error, see :func:`~fxprune.passes.onnx.check.check_onnx`.
        batches: batch sizes at which onnxruntime and eager are compared.
        metadata: name -> text to store in the file for its users; None: the preprocessing of images, if
            ``module.meta["preprocessing"]`` has it.

    Raises:
        ExportError: the network cannot be exported, the file has another opset or is not valid, or it disagrees with
            the network; the message then names the first diverging value.
        OptionError: the example inputs hold no tensors with one common batch size.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> fxprune.export_onnx(net, images, "net.onnx").max_rel_error < 1e-4
        True
    """
    if not isinstance(path, (str, os.PathLike)):
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder, "network.onnx")
            options: dict[str, Any] = {"opset": opset, "tolerance": tolerance, "batches": batches, "metadata": metadata}
            report = export_onnx(module, example_inputs, aside, **options)
            if len(os.listdir(folder)) > 1:
                raise ExportError("weights of 1.9 GB and more go into a second file: give a path, not a file object.")
            path.write(aside.read_bytes())
        return replace(report, path=Path(str(getattr(path, "name", "the given file"))))
    inputs = inputs_on_cpu(example_inputs)
    eager, path = eager_on_cpu(module), Path(path)
    bound = batches_of(eager, inputs)
    try:
        program = onnx_program(eager, random_batch(inputs, exported_size(inputs, bound), seed=0), opset, bound)
    except BatchInAttributeError:
        given = batch_of(inputs)
        bound = BatchRange(given, given, "an attribute of an ONNX operator, as a number of groups, depends on it")
        program = onnx_program(eager, random_batch(inputs, given, seed=0), opset, bound)
    require_bounds(program, bound)
    if metadata is None and (expects := meta_of(module).get("preprocessing")) is not None:
        metadata = expects.to_metadata()
    program.model.metadata_props.update({**(metadata or {}), **({"batch": str(bound)} if bound.why else {})})
    size = _write(program, path, opset, bound)
    graph = program.model.graph
    names, outputs = (tuple(str(value.name) for value in values) for values in (graph.inputs, graph.outputs))
    del program, graph  # they hold a second graph of the network
    agreement = check_onnx(eager, path, inputs, tolerance=tolerance, batches=admitted(batches, bound))
    return ExportReport(path, opset, size, agreement.errors, agreement.same_argmax, names, outputs, bound)


def _write(program: ONNXProgram, path: Path, opset: int, bound: BatchRange) -> int:
    """Write the file, check that it is valid, rename it to its place, and return its size."""
    import onnx_ir

    model = program.model
    for node in model.graph:  # stack traces hold paths of this machine
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    with written_with_weights(path, data := path.with_name(f"{path.name}.data")) as aside:
        with silenced(), named_in_errors(path):
            onnx_ir.save(model, aside, external_data=data.name if weights >= INLINE_BYTES else None)
        _check_file(aside, opset, bound)
        return sum(file.stat().st_size for file in aside.parent.iterdir())


def _check_file(path: Path, opset: int, bound: BatchRange) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    found = {entry.domain: entry.version for entry in model.opset_import}
    if (version := found.get("", found.get("ai.onnx"))) != opset:
        raise ExportError(
            f"opset {opset} was asked for and the exporter wrote opset {version}: it could not convert {path.name}. "
            f"Ask for opset {version}."
        )
    for value in model.graph.input:
        first = value.type.tensor_type.shape.dim[:1]
        if first and not first[0].dim_param and not bound.fixed:
            raise ExportError(
                f"the exporter froze the batch of input `{value.name}` at {first[0].dim_value}: some layer has "
                "that size baked in. Compute it from the input's shape instead."
            )
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # the checker and its shape inference raise different exceptions
        raise ExportError(f"the exporter wrote a {path.name} that is not valid ONNX: {error}") from error
