"""Convert a network in eval mode to an ONNX program with one dynamic batch axis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fxprune.arguments.batches import ANY_BATCH, BatchRange, batch_range, graph_batches, leave_whole
from fxprune.arguments.guards import SpecialisedError, guard_equal
from fxprune.arguments.inputs import Inputs, batch_of, run_on, tensors_of
from fxprune.arguments.misfits import unfit
from fxprune.common.number_checks import check_numbers
from fxprune.common.silence import silenced
from fxprune.errors import ExportError, FxpruneError, OptionError, is_out_of_memory, kind_and_line
from fxprune.passes.verify import batched_inputs, named_outputs, random_batch, relative_error, repeat_to
from fxprune.pytorch.modules import map_tensors, named_tensors
from fxprune.pytorch.torch_private import GROUPED_MM, pytree

from .names import flattened, input_names, output_names

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


class BatchInAttributeError(ExportError):
    """An attribute of an ONNX operator, as a number of groups, would depend on the batch."""


@contextlib.contextmanager
def export_errors(module: nn.Module, to: str) -> Iterator[None]:
    """Raise whatever an exporter raises as an ExportError, unless memory or a disk is full."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, OSError):
            raise
        raise ExportError(f"{type(module).__name__} cannot be exported to {to}: {kind_and_line(error)}") from error


def eager_on_cpu(module: nn.Module) -> nn.Module:
    """Copy the network to eval mode, float32 and the CPU; tensors of that form are shared.

    Raises:
        ModelError: a tensor on the meta device has no numbers.
    """
    check_numbers(named_tensors(module))

    def plain(_: str, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)

    copied = map_tensors(module, plain).eval()
    if isinstance(copied, fx.GraphModule):
        for node in copied.graph.nodes:
            node.meta = {}  # how the graph was made, which would be written into the file
    return copied


def inputs_on_cpu(example_inputs: Any) -> Inputs:
    """Read example inputs as :func:`eager_on_cpu` takes them: floating-point ones in float32."""

    def plain(x: Tensor) -> Tensor:
        return x.to(torch.float32) if x.is_floating_point() else x

    inputs: Inputs = pytree.tree_map_only(Tensor, plain, batched_inputs(example_inputs))
    return inputs


def batches_of(eager: nn.Module, inputs: Inputs) -> BatchRange:
    """Find the batch sizes that the guards of a network admit, and that a file can take.

    PyTorch's exporter cuts no axis of which it only knows bounds: what is cut into one piece is left whole in
    ``eager``, and a network that cuts its batch into more is bound to that of its example.
    """
    if not isinstance(eager, fx.GraphModule) or not eager.graph.find_nodes(op="call_function", target=guard_equal):
        return ANY_BATCH
    inputs = inputs_on_cpu(inputs)
    given = batch_of(inputs)
    bound = batch_range(lambda batch: run_eager(eager, random_batch(inputs, batch, seed=0)), given)
    found = graph_batches(eager, random_batch(inputs, given, seed=0))
    if found.most is None or (bound.fixed and found.most != given):
        return bound
    whole = leave_whole(eager, random_batch(inputs, given, seed=0), found)
    why = f"{found.why}, and PyTorch's exporter does not cut an open batch"
    return found if whole else BatchRange(given, given, why)


def exported_size(inputs: Inputs, bound: BatchRange) -> int:
    """Return the batch size to trace at; tracing may treat a batch of one as a constant."""
    return batch_of(inputs) if bound.fixed else max(2, batch_of(inputs))


def shapes_of(inputs: Inputs, bound: BatchRange) -> Any:
    """Describe what is dynamic, in the structure of the inputs: the batch, unless it is fixed."""
    least = bound.least if bound.least > 1 else None
    axes = {} if bound.fixed else {0: torch.export.Dim("batch", min=least, max=bound.most)}
    return pytree.tree_map(lambda x: (dict(axes) if x.dim() else {}) if isinstance(x, Tensor) else None, inputs)


@torch.no_grad()
def run_eager(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the named outputs of a network; in-place layers do not change the inputs."""
    return named_outputs(run_on(module, pytree.tree_map_only(Tensor, Tensor.clone, inputs)))


def largest_error(
    eager: nn.Module,
    read: Callable[[Inputs], Any],
    example: Inputs,
    name: str,
    tolerance: float,
    batches: Sequence[int],
) -> float:
    """Compare what a file returns with what its network does, at several batch sizes.

    Raises:
        ExportError: an output differs.
    """
    worst = 0.0
    for size in batches:
        given = repeat_to(example, size)
        found = named_outputs(read(given)).values()
        for (output, wanted), other in zip(run_eager(eager, given).items(), found, strict=True):
            off = relative_error(wanted, other)
            worst = max(worst, off)
            if not off <= tolerance:
                raise ExportError(f"{name}: {output} at a batch of {size} differs by {off:.3g}, above {tolerance:.3g}.")
    return worst


def onnx_program(module: nn.Module, inputs: Inputs, opset: int, bound: BatchRange = ANY_BATCH) -> ONNXProgram:
    """Convert a network to an ONNX program; outputs are in the order of :func:`named_outputs`.

    Args:
        module: from :func:`eager_on_cpu`.
        inputs: with tensors [N, ...] on the CPU; N at least 2, since tracing may treat a size of 1 as a constant.
        opset: version of the ONNX operators.
        bound: the batch sizes that the network takes.

    Raises:
        BatchInAttributeError: an attribute of an ONNX operator, which is a constant, would depend on the batch.
        ExportError: PyTorch cannot trace or convert the network.
    """
    tensors = tuple(tensors_of(inputs))
    shapes = shapes_of(tensors, bound)
    names = input_names(module, inputs)
    try:
        results = output_names(_run(module, inputs), names)
        with silenced(), _PlainOperations():
            program = torch.onnx.export(
                flattened(module, inputs),
                tensors,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=(shapes,),
                input_names=names,
                output_names=results,
                verbose=False,
            )
    except Exception as error:  # the exporter may raise any exception
        if is_out_of_memory(error) or isinstance(error, OptionError):
            raise
        kind = (
            BatchInAttributeError if "Unsupported attribute type" in _root(error) and not bound.fixed else ExportError
        )
        raise kind(
            f"{type(module).__name__} cannot be exported to ONNX opset {opset} with a dynamic batch: {_why(error)}."
        ) from error
    assert program is not None  # dynamo=True always returns one
    return program


def _run(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    try:
        return run_eager(module, inputs)
    except (FxpruneError, SpecialisedError):
        raise
    except Exception as error:  # a network may raise any exception
        if is_out_of_memory(error):
            raise
        raise OptionError(f"{type(module).__name__} {unfit(module, inputs, error)}") from error


class _PlainOperations(TorchFunctionMode):
    """Replace calls that the exporter converts wrongly by plain operations.

    The exporter converts fused attention for [b, h, n, d] only, and with a mask it assumes strides that do not hold.
    A clamp between tensors is also replaced: the exporter names the bounds after the clamped tensor, and if that is
    clamped twice, its file is not valid. It knows no clamp between an int and a float, no running product, and no
    product of groups, of which ONNX computes every row with the weights of each group.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) >= 3:
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            if mask is not None or args[0].dim() != 4:
                return _attention(*args, **kwargs)
        if func in _CLAMPS and len({type(bound) for bound in (*args[1:], *kwargs.values())} - {Tensor, NoneType}) > 1:
            args = (args[0], *map(_as_float, args[1:]))
            kwargs = {name: _as_float(bound) for name, bound in kwargs.items()}
        if func in _CLAMPS and any(isinstance(bound, Tensor) for bound in (*args[1:], *kwargs.values())):
            return _clamp(*args, **kwargs)
        if func in (torch.cumprod, Tensor.cumprod):
            return _running_product(*args, **kwargs)
        if func is GROUPED_MM and (args[0].dim(), args[1].dim()) == (2, 3) and len(args) < 4 and not kwargs.get("bias"):
            return _grouped_product(*args, **kwargs)
        return func(*args, **kwargs)


def _as_float(bound: Any) -> Any:
    return float(bound) if isinstance(bound, int) else bound


_CLAMPS = (torch.clamp, torch.clip, Tensor.clamp, Tensor.clip)


def _clamp(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:  # PyTorch's own names
    """Return min(max(x, lower), upper); NaN stays, and upper wins if it is below lower."""
    if min is not None:
        x = torch.where(x < min, min, x)
    return x if max is None else torch.where(x > max, max, x)


def _running_product(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """y_i = x_0 ... x_i along ``dim``, as products of rows of which a triangle is kept."""
    x = x.to(dtype or x.dtype).movedim(dim, -1)
    kept = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool, device=x.device).tril()
    return x[..., None, :].masked_fill(~kept, 1).prod(-1).movedim(-1, dim)


def _grouped_product(
    rows: Tensor, weights: Tensor, offs: Tensor, bias: None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """``[s, q] @ [g, q, r]``: each row keeps the product with the weights of its group."""
    group = (torch.arange(rows.shape[0], device=rows.device)[:, None] >= offs).sum(1)[:, None]
    zero = rows.new_zeros(())
    product: Any = sum(torch.where(group == i, rows @ weight, zero) for i, weight in enumerate(weights.unbind()))
    summed: Tensor = product if out_dtype is None else product.to(out_dtype)
    return summed


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k' scale + mask) v."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    weights = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else weights + attn_mask
    weights = weights.softmax(-1)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def _root(error: BaseException) -> str:
    """Describe the first error of the chain, which the exporter wraps in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no message'}"


def _why(error: BaseException) -> str:
    """Describe the first error of the chain, and what to do."""
    said = _root(error)
    if missing := re.search(r"No ONNX function found for <OpOverload\(op='(?:aten|prims)\.(\w+)'", said):
        return (
            f"PyTorch's exporter has no conversion of `{missing[1]}`, at any width of the network. Compute it by other "
            "operations, or write a file of `torch.export` (`fxprune export --format pt2`)"
        )
    return f"{said}. Make that line independent of the batch size and of tensor values, or ask for another opset"
