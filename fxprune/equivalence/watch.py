"""Watch the operators of a call, and restore the parameters that it writes to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.pytorch.data_writes import number_reads
from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    functions_plain,
    is_mutable,
    no_dispatch,
    op_name,
    storage_id,
    written_by,
)

_LENDERS: list[Callable[[Any], None]] = []
# The operators that autocast lowers, without PyTorch's fused transformer layers, which keep theirs in eval mode only.
_CONTRACTIONS = ("convolution", "mm", "addmm", "bmm", "baddbmm", "linear", "scaled_dot_product")


class Watch(TorchDispatchMode):
    """A mode that records each operation with its dtypes, and saves parameters before a write.

    Numbers whose memory leaves PyTorch, as by ``numpy()``, are saved, too.
    """

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
        # By name: the parameter, its memory, and a copy of its numbers.
        self._saved: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._written: set[str] = set()  # by operators
        self._watching = contextlib.ExitStack()

    def __enter__(self) -> Any:
        """Enter the mode."""
        self._watching.enter_context(number_reads(self._lend))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._watching.close()

    def _lend(self, tensor: Tensor) -> None:
        """Save what may be written to from now on, also in later calls."""
        if name := self._save(tensor):
            for each in _LENDERS:
                each(self._saved[name][1:])

    def _save(self, tensor: Tensor) -> str:
        """Save the parameter that lies where a tensor does; return its name."""
        name, parameter = self._parameters.get(_storage(tensor), ("", tensor))
        if name and name not in self._saved:
            with no_dispatch(), functions_plain():  # modes below may let a copy wait for its numbers
                memory = parameter.detach()
                self._saved[name] = parameter, memory, memory.clone()
        return name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # an operator with functions as arguments
            return func(*args, **kwargs)
        for value in written_by(func, args, kwargs) if is_mutable(func) else ():
            if name := self._save(value):
                self._written.add(name)
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
        written = {}
        for name, (parameter, memory, before) in self._saved.items():
            now = parameter.detach()
            if name in self._written or not hold_the_same(now, before):
                written[name] = now.clone()
            if _storage(now) != _storage(memory) or now.shape != memory.shape or now.stride() != memory.stride():
                parameter.data = memory
            if not hold_the_same(memory, before):
                memory.copy_(before)
        return written


def _dtypes(args: Iterable[Any]) -> Iterator[torch.dtype]:
    """Yield the dtypes of tensors among arguments of an operator."""
    for value in args:
        if isinstance(value, Tensor):
            yield value.dtype
        elif isinstance(value, (list, tuple)):
            yield from _dtypes(value)


@contextlib.contextmanager
def lends_noted(note: Callable[[tuple[Tensor, Tensor]], None]) -> Iterator[None]:
    """Call ``note((memory, copy))`` for parameters whose memory leaves PyTorch in watched calls."""
    _LENDERS.append(note)
    try:
        yield
    finally:
        _LENDERS.remove(note)


def hold_the_same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have the same sizes, type and numbers."""
    return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(a, b)


def has_storage(tensor: Tensor) -> bool:
    """Tell whether the numbers of a tensor lie in memory of their own."""
    return bool(_storage(tensor) != id(tensor))


def _storage(tensor: Tensor) -> Any:
    try:
        return storage_id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have none
        return id(tensor)
