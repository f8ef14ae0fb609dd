"""Reach into operators and functions of PyTorch: their names, schemas and overloads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from .tensors import pytree

__all__ = ["OpOverload", "OpOverloadPacket"]

# Raises AssertionError with a message; unlike `assert`, a trace records it.
assert_call = torch._assert
# The functions of `torch` by which `torch._check` and `torch._check_tensor_all` raise.
CHECK_WITH, CHECK_ALL_WITH = "_check_with", "_check_tensor_all_with"
# Raises RuntimeError with a message where a tensor is false; unlike `torch._assert`, it is an operator.
assert_tensor = torch._assert_async
# One kernel for a whole list of tensors.
foreach_add_, foreach_mul_, foreach_copy_ = torch._foreach_add_, torch._foreach_mul_, torch._foreach_copy_
foreach_sub, foreach_sub_ = torch._foreach_sub, torch._foreach_sub_
FOREACH = "_foreach"  # how the names of such operators begin
GROUPED_MM = getattr(torch, "_grouped_mm", None)  # what `torch.nn.functional.grouped_mm` calls
OPERATOR_CLASSES = "torch._ops"  # how the names of the modules of their classes begin
# Names of all operators and their overloads.
registered_names = torch._C._dispatch_get_all_op_names


def op_name(operator: OpOverload) -> str:
    """Return the operator's name without the overload: ``aten::add_`` for ``aten.add_.Tensor``."""
    return str(operator._schema.name)


def overload_names(operator: OpOverload) -> tuple[str, str, str]:
    """Return the names of an operator below ``torch.ops``: library, packet and overload."""
    space, _, packet = op_name(operator).partition("::")
    return space, packet, str(operator._overloadname)


def packet_of(operator: OpOverload) -> OpOverloadPacket:
    """Return all overloads of an operator, as ``torch.ops.aten.add``."""
    return operator._overloadpacket


def overload_of(operator: OpOverloadPacket, args: Any, kwargs: Any) -> OpOverload:
    """Return the overload that a call of an operator by its name runs.

    Raises:
        RuntimeError: the arguments fit none.
    """
    found: OpOverload = getattr(operator, torch._C._jit_resolve_packet(operator._qualified_op_name, *args, **kwargs))
    return found


@functools.cache
def op_arguments(operator: OpOverload) -> Sequence[Any]:
    """Return the arguments of an operator's schema, with names, defaults and mutability."""
    arguments: Sequence[Any] = operator._schema.arguments
    return arguments


def written_by(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """List the tensors that a call of an operator writes to, those in lists included."""
    values = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(op_arguments(operator))
        if argument.is_write
    ]
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@functools.cache
def is_mutable(operator: OpOverload) -> bool:
    """Tell whether an operator writes to an argument."""
    return bool(operator._schema.is_mutable)


@functools.cache
def fills_given(operator: OpOverload) -> bool:
    """Tell whether an operator puts its results into tensors that it is given as ``out``."""
    return any(argument.is_out for argument in operator._schema.arguments)


def is_composed(operator: OpOverload) -> bool:
    """Tell whether PyTorch takes an operator apart into others before it runs."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd"))


@functools.cache
def draws(operator: OpOverload) -> bool:
    """Tell whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in operator.tags


@functools.cache
def takes_device(operator: OpOverload) -> bool:
    """Tell whether an operator takes the device of its result."""
    return any(argument.name == "device" for argument in operator._schema.arguments)


@functools.cache
def makes_storage(operator: OpOverload) -> bool:
    """Tell whether all results of an operator are new: no views, not written in place."""
    return all(value.alias_info is None for value in operator._schema.returns)


def may_write(function: Any) -> bool:
    """Tell whether a function is an operator that writes to an argument."""
    schema = getattr(function, "_schema", None)
    return bool(schema and schema.is_mutable)


def is_torch(module: str | None) -> bool:
    """Tell whether a module, by its name, is of PyTorch or Python; a user's operators are not."""
    package, *inside = (module or "torch").split(".")
    own = inside[:1] == ["_ops"] and inside[1] not in ("aten", "prim", "prims")
    return package in ("torch", "_operator", "math", "builtins") and not own
