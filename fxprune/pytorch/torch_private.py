"""List all private parts of PyTorch that we use, tried on PyTorch 2.14.1.

PyTorch may change these without notice: if something breaks after an update, look here first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.optim import Optimizer
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.hooks import RemovableHandle

__all__ = [
    "BatchNorm", "ConvNd", "ConvTransposeNd", "NormBase", "OpOverload", "OpOverloadPacket", "TorchDispatchMode",
    "no_dispatch", "pytree",
]  # fmt: skip

# Disables the function overrides of tensor subclasses and proxies, as PyTorch itself does while it traces.
functions_undisturbed = torch._C.DisableTorchFunctionSubclass
functions_plain = torch._C.DisableTorchFunction  # for modes, too
# Functions of recurrent layers, by name.
recurrent_functions = torch._VF
# Holds the functions that tell modes under names of its own.
C = torch._C
# Sets whether gradients are computed, also while `torch.set_grad_enabled` is watched.
set_grad_enabled = torch._C._set_grad_enabled
# Raises AssertionError with a message; unlike `assert`, a trace records it.
assert_call = torch._assert
# The functions of `torch` by which `torch._check` and `torch._check_tensor_all` raise.
CHECK_WITH, CHECK_ALL_WITH = "_check_with", "_check_tensor_all_with"
# Raises RuntimeError with a message where a tensor is false; unlike `torch._assert`, it is an operator.
assert_tensor = torch._assert_async
KNOW_CONSTANTS = "torch.fx.experimental.proxy_tensor", "torch._subclasses.fake_tensor"
MOST_KNOWN = "CONSTANT_NUMEL_LIMIT"  # of how many numbers at most the exporter knows a constant
# One kernel for a whole list of tensors.
foreach_add_, foreach_mul_, foreach_copy_ = torch._foreach_add_, torch._foreach_mul_, torch._foreach_copy_
foreach_sub, foreach_sub_ = torch._foreach_sub, torch._foreach_sub_

# Names of all operators and their overloads.
registered_names = torch._C._dispatch_get_all_op_names


def op_name(operator: OpOverload) -> str:
    """Return the operator's name without the overload: ``aten::add_`` for ``aten.add_.Tensor``."""
    return str(operator._schema.name)


GROUPED_MM = getattr(torch, "_grouped_mm", None)  # what `torch.nn.functional.grouped_mm` calls


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


def active_modes() -> list[Any]:
    """List the modes that see functions and operators, of PyTorch's stack for each."""
    return [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]


@functools.cache
def takes_device(operator: OpOverload) -> bool:
    """Tell whether an operator takes the device of its result."""
    return any(argument.name == "device" for argument in operator._schema.arguments)


@functools.cache
def makes_storage(operator: OpOverload) -> bool:
    """Tell whether all results of an operator are new: no views, not written in place."""
    return all(value.alias_info is None for value in operator._schema.returns)


def storage_id(tensor: torch.Tensor) -> int:
    """Return an id that a tensor shares with its views, as long as one of them lives."""
    return int(torch._C.TensorBase.untyped_storage(tensor)._cdata)  # also where reads are watched


def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor of which a tensor is a view; None: it is none."""
    attribute: Any = torch._C.TensorBase._base  # also where questions are watched
    base: torch.Tensor | None = attribute.__get__(tensor)
    return base


def storage_owners(tensor: torch.Tensor) -> int:
    """Count the tensors that share the storage of a tensor, itself included."""
    storage = torch._C.TensorBase.untyped_storage(tensor)
    return int(torch._C._storage_Use_Count(storage._cdata)) - 1


def strides_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor, also where questions are watched."""
    return torch._C.TensorBase.stride(tensor)


def without_autocast() -> Any:
    """Make a context without autocast on the CPU, also where autocast is watched."""
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def memory_of(tensor: torch.Tensor) -> int:
    """Return the size of a tensor's storage in bytes."""
    return int(torch._C.TensorBase.untyped_storage(tensor).nbytes())  # also where reads are watched


def versions_of(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return how often each tensor was written to; writes through ``.data`` do not count."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def places_of(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return the address of each tensor's numbers."""
    return list(map(torch.Tensor.data_ptr, tensors))


def step_hooks_of(optimizer: Optimizer) -> list[list[Any]]:
    """List an optimizer's hooks before and after each step; wrappers of optimizers have none."""
    return [[*getattr(optimizer, f"_optimizer_step_{when}_hooks", {}).values()] for when in ("pre", "post")]


def put_innermost(optimizer: Optimizer, before: RemovableHandle, after: RemovableHandle) -> None:
    """Let the hook ``before`` a step run last, and the one ``after`` it first."""
    hooks: Any = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    hooks[0].move_to_end(before.id)
    hooks[1].move_to_end(after.id, last=False)


def newest_node(graph: fx.Graph) -> fx.Node:
    """Return the node that was recorded last."""
    return graph._root.prev


def tracer_class(graph: fx.Graph) -> Any:
    """Return the class of the tracer that made a graph; a copy of the graph must name it too."""
    return getattr(graph, "_tracer_cls", None)


def wrapped_functions() -> dict[Any, dict[str, Any]]:
    """Return the mutable map (scope, name) -> scope of functions that ``torch.fx.wrap`` got."""
    return fx._symbolic_trace._wrapped_fns_to_patch


def hooks_of(module: nn.Module) -> list[Any]:
    """List the hooks that see the inputs and outputs of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def backward_hooks_of(module: nn.Module) -> list[Any]:
    """List the hooks that see gradients."""
    return [*module._backward_pre_hooks.values(), *module._backward_hooks.values()]


def tensor_tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mutable tables of a module's own parameters and buffers, by name."""
    return module._parameters, module._buffers


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that its state dict leaves out."""
    return module._non_persistent_buffers_set


def children_of(module: nn.Module) -> Iterable[tuple[str, nn.Module | None]]:
    """List a module's own children by name."""
    return module._modules.items()


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """Return a child by its name."""
    return module._modules.get(name)


def call_with_hooks(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call ``module(...)`` with its hooks, although ``torch.fx`` has patched the call itself."""
    return module._call_impl(*args, **kwargs)


def attribute_of(owner: Any, name: str) -> Any:
    """Read ``owner.name`` without running code of the module that watches its attributes."""
    for table in ("_modules", "_parameters", "_buffers", "__dict__"):
        found = getattr(owner, table, {}).get(name)
        if found is not None:
            return found
    return getattr(owner, name)


def has_packed_projection(layer: nn.MultiheadAttention) -> bool:
    """Tell whether the weights of queries, keys and values are one parameter."""
    return bool(layer._qkv_same_embed_dim)


def encoder_blocks(layer: nn.TransformerEncoderLayer) -> Sequence[Callable[..., torch.Tensor]]:
    """Return the self-attention and the feed-forward network of an encoder layer, with dropout."""
    return layer._sa_block, layer._ff_block


def autocast_arguments(context: torch.autocast) -> tuple[Any, ...]:
    """Return the arguments of an autocast context."""
    return context.device, context.fast_dtype, context._enabled, context._cache_enabled


def batch_left_open() -> Any:
    """Make a context in which ``torch.export`` does not assume more than one sample."""
    from torch.fx.experimental import _config

    return _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def assumptions_of(program: torch.export.ExportedProgram) -> list[str]:
    """List what ``torch.export`` assumed about sizes, as Python expressions."""
    return list(program._guards_code or ())


def fake_tensor_mode(**options: Any) -> Any:
    """Make a context in which tensors have sizes, types and devices, but no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(**options)


def depends_on_data(size: Any) -> bool:
    """Tell whether a symbolic size depends on numbers that are known only at run time."""
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(size))


def is_compiler_error(error: BaseException) -> bool:
    """Tell whether `torch.compile` failed; a compiler that is missing is its cause."""
    return any(kind.__module__ == "torch._dynamo.exc" for kind in type(error).__mro__)
