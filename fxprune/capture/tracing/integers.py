"""Integers in tensors made of constants alone are known in a trace, as a permutation."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxprune.pytorch.meta import value_of
from fxprune.pytorch.torch_private import FOREACH, op_arguments, pytree

from .own_tensors import read_after_write

if TYPE_CHECKING:
    from .concrete_trace import ConcreteTracer

_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


def known(tracer: ConcreteTracer, node: fx.Node) -> torch.Tensor | None:
    """Return the integers of a tensor made of constants; None: of inputs, sizes or stored ones."""
    value = tracer.value(node)
    if not isinstance(value, torch.Tensor) or value.dtype not in _INTEGERS:
        return None
    makers: set[fx.Node] = set()
    if not _comes_of_constants(node, makers):
        return None
    if _is_written(tracer, makers):  # only by the graph: what is known is of before
        raise tracer.refusal(read_after_write())
    return value_of(value)


def _is_written(tracer: ConcreteTracer, makers: set[fx.Node]) -> bool:
    """Tell whether a call may write into constants, or into what is made of them."""
    waiting, seen = [*makers], set(makers)
    while waiting:
        for user in waiting.pop().users:
            name = str(getattr(user.target, "__name__", user.target))
            in_place = name.endswith("_") and not name.endswith("__")
            if in_place or name == "setitem" or name.startswith(FOREACH) or "out" in user.kwargs:
                return True
            value = tracer.value(user)
            if user not in seen and isinstance(value, torch.Tensor) and value.dtype in _INTEGERS:
                seen.add(user)
                waiting.append(user)
    return False


def length_of(value: Any) -> int:
    """Return the length of a sequence.

    Raises:
        TypeError: a number has none, as NumPy and PyTorch's parsers ask of each that they are given in a list.
    """
    if type(value) in (int, float):
        error = TypeError("a function that no graph records takes a number that depends on sizes for a list")
        error.add_note("Make the tensor by `torch.tensor(...)`, which is recorded.")
        raise error
    return len(value)


def as_number(tracer: ConcreteTracer, node: fx.Node) -> int | None:
    """Return the one integer of a tensor without axes that is known; else None."""
    value = tracer.value(node)
    if not isinstance(value, torch.Tensor) or value.dim():
        return None
    found = known(tracer, node)
    return None if found is None else int(found)


def with_numbers(tracer: ConcreteTracer, target: Any, args: Any) -> Any:
    """Replace known integers where an operator takes no tensor, so that PyTorch would read them."""
    if not isinstance(target, str | types.BuiltinFunctionType | types.MethodDescriptorType):
        return args
    if not _takes_numbers(target if isinstance(target, str) else target.__name__):
        return args

    def number(leaf: Any) -> Any:
        found = as_number(tracer, leaf.node) if issubclass(type(leaf), fx.Proxy) else None
        return leaf if found is None else found

    return (*args[:1], *pytree.tree_map(number, args[1:]))


def _comes_of_constants(node: fx.Node, seen: set[fx.Node]) -> bool:
    if node in seen or (node.target is getattr and node.args[1] == "device"):  # no device changes an integer
        return True
    seen.add(node)
    made = node.op in ("call_function", "call_method")
    return made and all(_comes_of_constants(each, seen) for each in node.all_input_nodes)


@functools.cache
def _takes_numbers(name: str) -> bool:
    """Tell whether an operator takes a tensor first, and numbers only behind it."""
    packet = getattr(torch.ops.aten, name, None)
    schemas = [op_arguments(getattr(packet, each)) for each in packet.overloads()] if packet else []
    behind = [str(argument.type) for schema in schemas for argument in schema[1:]]
    return bool(behind) and not any("Tensor" in each for each in behind)


@functools.cache
def take_numbers_first() -> tuple[str, ...]:
    """Name the functions that take a tensor or a number first, as ``pow``.

    Their parser crashes on a proxy.
    """
    found = []
    for name in dir(torch):
        is_operator = isinstance(getattr(torch, name), types.BuiltinFunctionType)
        packet = getattr(torch.ops.aten, name, None) if is_operator else None
        firsts = [op_arguments(getattr(packet, each))[:1] for each in packet.overloads()] if packet else []
        if {"number", "Tensor"} <= {str(argument.type) for first in firsts for argument in first}:
            found.append(name)
    return tuple(found)
