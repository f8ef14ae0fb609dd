"""Reach modes, which see functions and operators, and switches of autocast and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

__all__ = ["TorchDispatchMode", "no_dispatch"]

# Disables the function overrides of tensor subclasses and proxies, as PyTorch itself does while it traces.
functions_undisturbed = torch._C.DisableTorchFunctionSubclass
functions_plain = torch._C.DisableTorchFunction  # for modes, too
# Holds the functions that tell modes under names of its own.
C = torch._C
# Sets whether gradients are computed, also while `torch.set_grad_enabled` is watched.
set_grad_enabled = torch._C._set_grad_enabled


def active_modes() -> list[Any]:
    """List the modes that see functions and operators, of PyTorch's stack for each."""
    return [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]


def without_autocast() -> Any:
    """Make a context without autocast on the CPU, also where autocast is watched."""
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def autocast_arguments(context: torch.autocast) -> tuple[Any, ...]:
    """Return the arguments of an autocast context."""
    return context.device, context.fast_dtype, context._enabled, context._cache_enabled


def fake_tensor_mode(**options: Any) -> Any:
    """Make a context in which tensors have sizes, types and devices, but no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(**options)
