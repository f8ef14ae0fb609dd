"""Watch writes to ``data`` of tensors and to attributes, and reads by no operator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def data_writes(seen: Callable[[Any], None]) -> Iterator[None]:
    """Call ``seen(value)`` before each assignment to the ``data`` of a tensor; it may raise."""
    outer: Any = vars(torch.Tensor).get("data")
    given: Any = torch.Tensor.data  # of a block outside, or of the base class in C, which casts what it gets

    def write(tensor: torch.Tensor, value: Any) -> None:
        seen(value)
        given.__set__(tensor, value)

    torch.Tensor.data = property(given.__get__, write)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        if outer is None:
            del torch.Tensor.data
        else:
            torch.Tensor.data = outer  # type: ignore[method-assign]


# They hand out the numbers of a tensor, or their memory; others, as `item`, run an operator.
_READS = ("tolist", "numpy", "data_ptr", "untyped_storage", "__dlpack__")
_CAPSULES: tuple[Any, ...] = torch, torch.utils.dlpack  # which hold `to_dlpack`
# They ask for the layout of numbers in memory, or for one number, by no operator inside of `torch.tensor`.
_QUESTIONS = ("stride", "is_contiguous", "storage_offset", "__float__", "__int__", "__bool__", "__complex__")


@contextlib.contextmanager
def number_reads(seen: Callable[[torch.Tensor], None], *, questions: bool = False) -> Iterator[None]:
    """Call ``seen(tensor)`` before each read of numbers that no mode sees, or each question."""
    names = _READS + _QUESTIONS * questions

    def noted(read: Any) -> Any:
        @functools.wraps(read)
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seen(tensor)
            return read(tensor, *args, **kwargs)

        return call

    capsules = [(holder, holder.to_dlpack) for holder in _CAPSULES]
    own = {name: vars(torch.Tensor)[name] for name in names if name in vars(torch.Tensor)}
    for name in names:
        setattr(torch.Tensor, name, noted(getattr(torch.Tensor, name)))
    for holder, read in capsules:
        holder.to_dlpack = noted(read)
    try:
        yield
    finally:
        for holder, read in capsules:
            holder.to_dlpack = read
        for name in names:
            if name in own:
                setattr(torch.Tensor, name, own[name])
            else:
                delattr(torch.Tensor, name)


_Seen = Callable[[nn.Module, str, Any], None]
_LISTENERS: list[_Seen] = []


@contextlib.contextmanager
def attribute_writes(seen: _Seen = lambda *_: None) -> Iterator[None]:
    """Call ``seen(module, name, value)`` before each assignment to an attribute of a module.

    Python visits all classes of modules where the outermost block begins and ends, which takes milliseconds; blocks
    inside cost nothing.
    """
    outermost, given = not _LISTENERS, nn.Module.__setattr__

    def write(module: nn.Module, name: str, value: Any) -> None:
        for each in _LISTENERS:
            each(module, name, value)
        given(module, name, value)

    _LISTENERS.append(seen)
    if outermost:
        nn.Module.__setattr__ = write  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        _LISTENERS.remove(seen)
        if outermost:
            nn.Module.__setattr__ = given  # type: ignore[method-assign]
