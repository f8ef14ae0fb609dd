"""The tensors of a model are nodes of its graph, also where its code gets them without their names.

``self.weight`` is a proxy while a model is traced. ``self.parameters()``, ``self.state_dict()`` and tables give the
tensor itself: what is computed from it would be a constant, and a branch on its type would have no guard.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.common.source import is_tracing_code
from fxprune.common.torch_private import functions_undisturbed, pytree, tensor_tables

if TYPE_CHECKING:
    from .symbolic import SymbolicTracer

# Numbers of a stored tensor, which the narrow network takes from the wide one.
_SIZES = frozenset({"shape", "size", "numel", "nelement", "dim", "ndim", "ndimension", "stride", "__len__"})


class OwnTensor(torch.Tensor):
    """A parameter or buffer while its model is traced: what Python code does to it is recorded."""

    fxprune_tracer: SymbolicTracer
    fxprune_name: str

    def recorded(self) -> Any:
        """Record that the tensor is read, and return its proxy."""
        return self.fxprune_tracer.create_proxy("get_attr", self.fxprune_name, (), {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record a call with the nodes of such tensors; sizes are read at once."""
        leaves, structure = pytree.tree_flatten((args, kwargs or {}))
        tracer = next(leaf.fxprune_tracer for leaf in leaves if type(leaf) is cls)
        is_attribute = func.__name__ == "__get__"
        name = func.__self__.__name__ if is_attribute else func.__name__
        if tracer.modes.paused or name in _SIZES or is_tracing_code(sys._getframe(1).f_code.co_filename):
            with functions_undisturbed():
                return func(*args, **(kwargs or {}))
        nodes = [leaf.recorded() if type(leaf) is cls else leaf for leaf in leaves]
        proxies, named = pytree.tree_unflatten(nodes, structure)
        if is_attribute:
            return getattr(proxies[0], name)
        return tracer.proxy_class.__torch_function__(func, types, proxies, named)


def record_own_tensors(root: nn.Module, tracer: SymbolicTracer) -> None:
    """Replace the parameters and buffers of a model that is to be traced by :class:`OwnTensor`."""
    memo: dict[int, OwnTensor] = {}
    for path, module in root.named_modules():
        tables = () if isinstance(module, torch.jit.ScriptModule) else tensor_tables(module)
        for table in tables:
            for name, tensor in table.items():
                if type(tensor) not in (torch.Tensor, nn.Parameter):
                    continue
                if id(tensor) not in memo:
                    memo[id(tensor)] = _own(tensor, f"{path}.{name}" if path else name, tracer)
                table[name] = memo[id(tensor)]


def _own(tensor: torch.Tensor, name: str, tracer: SymbolicTracer) -> OwnTensor:
    own = tensor.detach().as_subclass(OwnTensor)
    with functions_undisturbed():
        own.requires_grad_(tensor.requires_grad)
    own._is_param = isinstance(tensor, nn.Parameter)
    own.fxprune_tracer, own.fxprune_name = tracer, name
    return own
