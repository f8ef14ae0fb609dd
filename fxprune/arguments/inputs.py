"""Read the arguments of a network: by position in a tuple, or by name in a dict.

Arguments are tensors, numbers, text and None, in any nest of tuples, lists and dicts. Tensors are the inputs; all other
values are constants of the captured graph.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import OptionError
from fxprune.pytorch.precision import dtype_name
from fxprune.pytorch.torch_private import pytree

Inputs = tuple[Any, ...] | dict[str, Any]


def as_inputs(example_inputs: Any) -> Inputs:
    """Read example inputs: a dict by name, a tuple or list in order, all else as the only one.

    For a network whose only argument is a dict or a list, give ``(argument,)``.

    Raises:
        OptionError: a tensor is sparse or nested.
    """
    several = isinstance(example_inputs, (tuple, list))
    by_name = isinstance(example_inputs, dict)
    inputs: Inputs = dict(example_inputs) if by_name else tuple(example_inputs) if several else (example_inputs,)
    for x in tensors_of(inputs):
        if x.is_nested or x.layout != torch.strided:
            kind, remedy = ("nested", "as a padded batch, with a mask") if x.is_nested else ("sparse", "dense")
            raise OptionError(f"the example inputs hold a {kind} tensor, which no graph takes apart: give it {remedy}.")
    return inputs


def run_on(module: Any, inputs: Inputs) -> Any:
    """Call ``module(*inputs)`` or ``module(**inputs)``.

    Raises:
        OptionError: the module takes other arguments.
    """
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    try:
        return module(*args, **kwargs)
    except TypeError as error:
        forward = getattr(module, "forward", module)
        try:
            inspect.signature(forward).bind(*args, **kwargs)
        except TypeError:
            raise _unlike(inputs, inspect.signature(forward).parameters) from error
        except ValueError:  # some callables have no signature
            pass
        raise


def names_by_place(forward: Callable[..., Any], count: int) -> list[str]:
    """Name the arguments of ``forward`` that are given by place; of ``*rest``: ``rest_0``, ..."""
    parameters = inspect.signature(forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "input")
    return [*names, *(f"{rest}_{place}" for place in range(count - len(names)))][:count]


def _unlike(inputs: Inputs, taken: Iterable[str]) -> OptionError:
    given = f"the inputs {', '.join(map(str, inputs))}" if isinstance(inputs, dict) else f"{len(inputs)} inputs"
    return OptionError(f"the network takes {', '.join(taken) or 'no inputs'}, not {given}.")


def tensors_of(inputs: Inputs) -> list[torch.Tensor]:
    """List the tensors, in the order of the structure."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def batch_of(inputs: Inputs) -> int:
    """Return the batch size of the arguments: the length of the first tensor that has axes."""
    return next(len(x) for x in tensors_of(inputs) if x.dim())


def as_meta(inputs: Inputs) -> Inputs:
    """Copy the inputs to the meta device, without numbers."""

    def copied(x: torch.Tensor) -> torch.Tensor:
        if x.is_meta and x.is_contiguous():  # for which PyTorch would find the strides in Python
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
        return torch.empty_like(x, device="meta")

    meta: Inputs = pytree.tree_map_only(torch.Tensor, copied, inputs)
    return meta


def without_numbers(inputs: Inputs) -> Inputs:
    """Copy the inputs to the meta device, except integers, which may be indices."""

    def copied(x: torch.Tensor) -> torch.Tensor:
        if x.is_meta or x.is_floating_point() or x.is_complex():
            return torch.empty_like(x, device="meta")
        return x.detach().to("cpu", copy=True)

    copies: Inputs = pytree.tree_map_only(torch.Tensor, copied, inputs)
    return copies


def in_order(graph: fx.Graph, inputs: Inputs) -> tuple[Any, ...]:
    """Order the inputs as the graph's placeholders; missing ones get the placeholder's default.

    Raises:
        OptionError: the graph has other placeholders.
    """
    if not isinstance(inputs, dict):
        return inputs
    placeholders: list[fx.Node] = graph.find_nodes(op="placeholder")
    needed = {str(n.target) for n in placeholders if not n.args}
    if not needed <= inputs.keys() <= {str(n.target) for n in placeholders}:
        raise _unlike(inputs, [str(n.target) for n in placeholders])
    return tuple(inputs[str(n.target)] if str(n.target) in inputs else n.args[0] for n in placeholders)


def input_names(graph: fx.Graph, inputs: Inputs) -> list[str]:
    """Name each tensor of the inputs that has axes, as ``x`` or ``x['images']``."""
    placeholders: list[fx.Node] = graph.find_nodes(op="placeholder")
    nodes: dict[Any, fx.Node] = {str(n.target): n for n in placeholders} | dict(enumerate(placeholders))
    names = []
    given: Any = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    for key, value in given:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, torch.Tensor) and leaf.dim():
                names.append(f"{nodes[key]}{pytree.keystr(path)}")
    return names


def inputs_for(model: nn.Module, inputs: Inputs) -> Inputs:
    """Convert the floating-point inputs to the dtype of the model's parameters."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    def suit(x: torch.Tensor) -> torch.Tensor:
        return x.to(kind) if kind is not None and x.is_floating_point() else x

    suited: Inputs = pytree.tree_map_only(torch.Tensor, suit, inputs)
    return suited


# The dtypes of inputs, without those that need more than their name (quantised ones).
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex128", "complex64"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}
# The most numbers in one input: 1 GiB of float32.
LARGEST_INPUT = 1 << 28


def to_json(inputs: Inputs) -> Any:
    """Make a JSON value: a tensor is ``[dtype, sizes]``, a constant ``{"value": 2}``.

    A nest names its type: ``tuple``, ``list`` or ``dict``.

    Raises:
        OptionError: an argument has another type.
    """
    if isinstance(inputs, dict):
        return {name: _write(value) for name, value in inputs.items()}
    return [_write(value) for value in inputs]


def from_json(value: Any) -> Inputs:
    """Make inputs on the meta device from a value of :func:`to_json`; or raise any error."""
    if isinstance(value, dict):
        return {name: _read(each) for name, each in value.items()}
    return tuple(map(_read, value))


def is_shape(value: Any) -> bool:
    """Tell whether a JSON value is the shape of a possible tensor."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value) and math.prod(value) < 1 << 48


def _write(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.dtype not in _DTYPES.values():
            raise OptionError(f"an argument of type {value.dtype} cannot be written to a file.")
        return [dtype_name(value.dtype), list(value.shape)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_write(each) for each in value]}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"dict": {name: _write(each) for name, each in value.items()}}
    raise OptionError(f"an argument of type {type(value).__name__} cannot be written to a file: take a dict.")


def _read(value: Any) -> Any:
    if isinstance(value, list):
        dtype, sizes = value
        if dtype not in _DTYPES or not is_shape(sizes) or math.prod(sizes) > LARGEST_INPUT:
            raise ValueError(f"an input cannot be {str(dtype)[:20]} {str(sizes)[:60]}")
        return torch.empty(sizes, dtype=_DTYPES[dtype], device="meta")
    ((kind, content),) = value.items()
    if kind == "value":
        if isinstance(content, list | dict):
            raise ValueError("a constant is a number, text or null")
        return content
    if kind == "dict":
        return {name: _read(each) for name, each in content.items()}
    return {"tuple": tuple, "list": list}[kind](map(_read, content))
