"""Reach into modules: their tables, hooks and wrappers; and the hooks of optimizers."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .operators import is_torch

__all__ = ["BatchNorm", "ConvNd", "ConvTransposeNd", "NormBase"]

# Functions of recurrent layers, by name.
recurrent_functions = torch._VF
# Other names of the stored tensors of a recurrent layer, which no call reads.
RECURRENT_NAMES = frozenset({"_flat_weights_names", "_all_weights", "_flat_weight_refs"})
LAYERS = "_modules"  # the table in which a module keeps its layers
# The attributes of a module that hold its tensors and layers.
TABLES = ("_parameters", "_buffers", LAYERS)
# The tables in which a module keeps its hooks and layers.
HOOKS_AND_LAYERS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks")) | {LAYERS}
COMPILED = "_orig_mod"  # the layer inside of what `torch.compile` returns


def hooks_of(module: nn.Module) -> list[Any]:
    """List the hooks that see the inputs and outputs of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def backward_hooks_of(module: nn.Module) -> list[Any]:
    """List the hooks that see gradients."""
    return [*module._backward_pre_hooks.values(), *module._backward_hooks.values()]


def is_of_torch(module: nn.Module) -> bool:
    """Tell whether all code of a module is PyTorch's: no class of another package, no script.

    Nor is a class of PyTorch's of which a package has replaced a function, as ``nn.Linear.forward``.
    """
    kinds = [kind for kind in type(module).__mro__ if kind not in (nn.Module, object)]
    functions = [each for kind in kinds for each in vars(kind).values() if type(each) is types.FunctionType]
    origins = [*(kind.__module__ for kind in kinds), *(each.__globals__.get("__name__", "") for each in functions)]
    return not isinstance(module, torch.jit.ScriptModule) and all(map(is_torch, origins))


# Those functions of every module that a call runs; others, as `train` and `type`, change no result.
_OF_CALLS = frozenset({"forward", "__call__", "_call_impl", "_wrapped_call_impl"})


def replaces_code(module: nn.Module) -> bool:
    """Tell whether a module replaces functions of its class, or has hooks of its calls.

    These are ``forward`` and what the ``forward`` of the class may call: ``_conv_forward`` of a convolution.
    """
    own = (
        name for name, value in vars(module).items() if callable(value) and callable(getattr(type(module), name, None))
    )
    return any(name in _OF_CALLS or not hasattr(nn.Module, name) for name in own) or bool(hooks_of(module))


def tensor_tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mutable tables of a module's own parameters and buffers, by name."""
    return module._parameters, module._buffers


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that its state dict leaves out."""
    return module._non_persistent_buffers_set


def layer_table(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the mutable table of a module's own layers, by name."""
    return module._modules


def children_of(module: nn.Module) -> Iterable[tuple[str, nn.Module | None]]:
    """List a module's own children by name."""
    return layer_table(module).items()


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """Return a child by its name."""
    return layer_table(module).get(name)


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


def step_hooks_of(optimizer: Optimizer) -> list[list[Any]]:
    """List an optimizer's hooks before and after each step; wrappers of optimizers have none."""
    return [[*getattr(optimizer, f"_optimizer_step_{when}_hooks", {}).values()] for when in ("pre", "post")]


def put_innermost(optimizer: Optimizer, before: RemovableHandle, after: RemovableHandle) -> None:
    """Let the hook ``before`` a step run last, and the one ``after`` it first."""
    hooks: Any = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    hooks[0].move_to_end(before.id)
    hooks[1].move_to_end(after.id, last=False)


def is_fully_sharded(module: nn.Module) -> bool:
    """Tell whether a module is a FullyShardedDataParallel."""
    return hasattr(module, "_fsdp_wrapped_module")


def is_sharded(module: nn.Module) -> bool:
    """Tell whether a module is inside FullyShardedDataParallel, or went through ``fully_shard``."""
    return is_fully_sharded(module) or any(k.__name__ == "FSDPModule" for k in type(module).__mro__)


def is_flat_parameter(parameter: torch.Tensor) -> bool:
    """Tell whether FullyShardedDataParallel has flattened a parameter, or made it of others."""
    return getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False)


def pruned_name(mask: Any) -> str:
    """Return the name of the tensor that a mask of ``torch.nn.utils.prune`` computes."""
    return str(mask._tensor_name)
