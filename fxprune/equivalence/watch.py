"""Watch the operators of a call, and restore the parameters that it writes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    no_dispatch,
    op_name,
    storage_id,
    written_by,
)

# The operators that autocast lowers, without PyTorch's fused transformer layers, which keep theirs in eval mode only.
_CONTRACTIONS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "linear", "scaled_dot_product")


class Watch(TorchDispatchMode):
    """A mode that records each operation with its dtypes, and saves parameters before a write."""

    supports_higher_order_operators = True

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, tuple[torch.dtype, ...]]] = []
        # Another tensor takes the place in memory of what a network replaces, unless it is held.
        self._held = [tensor.detach() for tensor in tensors.values()]
        # All empty ones have one storage.
        self._parameters = {
            _storage(tensor): (name, tensor)
            for name, tensor in tensors.items()
            if isinstance(tensor, nn.Parameter) and tensor.numel()
        }
        self._saved: dict[str, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # an operator with functions as arguments
            return func(*args, **kwargs)
        for value in written_by(func, args, kwargs) if is_mutable(func) else ():
            if found := self._parameters.get(_storage(value)):
                name, parameter = found
                with no_dispatch():  # modes below may let a copy wait for its numbers
                    self._saved.setdefault(name, (parameter, parameter.detach().clone()))
        self.operations.append((func, (*_dtypes(args),)))
        return func(*args, **kwargs)

    def precisions(self) -> set[torch.dtype]:
        """Return the dtypes of contractions."""
        return {
            kind
            for func, kinds in self.operations
            for kind in kinds
            if any(name in op_name(func) for name in _CONTRACTIONS)
        }

    def outputs_are_kept(self, outputs: list[Any]) -> None:
        """Copy the outputs, since they may be parameters, which are restored next."""
        for place, leaf in enumerate(outputs):
            if isinstance(leaf, Tensor) and self._saved:
                outputs[place] = leaf.detach().clone()

    def restore(self) -> dict[str, Tensor]:
        """Restore the parameters, and return what was written to them."""
        written = {name: parameter.detach().clone() for name, (parameter, _) in self._saved.items()}
        for parameter, before in self._saved.values():
            parameter.detach().copy_(before)
        return written


def _dtypes(args: Iterable[Any]) -> Iterator[torch.dtype]:
    """Yield the dtypes of tensors among arguments of an operator."""
    for value in args:
        if isinstance(value, Tensor):
            yield value.dtype
        elif isinstance(value, (list, tuple)):
            yield from _dtypes(value)


def _storage(tensor: Tensor) -> Any:
    try:
        return storage_id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have none
        return id(tensor)
