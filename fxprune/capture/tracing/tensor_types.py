"""Record the tensors that a model makes by a type, by sizes that are traced.

``torch.Tensor(2, n)``, ``type(x)(x.shape)`` and ``x.new(2, n)`` are older names of ``torch.empty`` and its kin, and
``torch.LongTensor([n])`` is one of ``torch.tensor``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.torch_private import pytree

from .own_tensors import OwnTensor

_EMPTY, _TENSOR = torch.empty, torch.tensor  # themselves: a trace puts others in their places


class TypeOfTensors:
    """The type of proxies, which a model that asks for the type of a tensor may call."""

    def __new__(cls, *given: Any, **options: Any) -> Any:
        """Make a proxy of a node, or the tensor that a model asks for."""
        of_model = given and type(given[0]) is not fx.Node and not issubclass(cls, fx.proxy.Attribute)
        return torch.Tensor(*given, **options) if of_model else super().__new__(cls)

    def __init__(self, *given: Any, **options: Any) -> None:
        """Leave a tensor as it was made."""
        if type(given[0]) is fx.Node or issubclass(type(self), fx.proxy.Attribute):
            super().__init__(*given, **options)

    def new(self, *given: Any, **options: Any) -> Any:
        """Record the older name of ``new_empty``, by sizes, and of ``new_tensor``, of a list."""
        name, given = _newer_name(given) if not options else ("new", given)
        return self.tracer.create_proxy("call_method", name, (self, *given), options)  # type: ignore[attr-defined]


def _newer_name(given: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    if len(given) == 1 and type(given[0]) in (list, tuple):
        return "new_tensor", (list(given[0]),)
    if len(given) == 1 and (type(given[0]) is torch.Size or (_is_proxy(given[0]) and given[0].is_sequence())):
        return "new_empty", given
    numbers = (type(each) is int or (_is_proxy(each) and not each.is_tensor()) for each in given)
    return ("new_empty", (given or (0,),)) if all(numbers) else ("new", given)


def _is_proxy(value: Any) -> bool:
    return issubclass(type(value), fx.Proxy)


def _recorded(given: tuple[Any, ...], options: dict[str, Any], dtype: dict[str, Any]) -> Any:
    """Record a tensor of a list of numbers, or by sizes, that are traced; else None."""
    proxies = [leaf for leaf in pytree.tree_leaves(given) if _is_proxy(leaf)]
    if options or not proxies or any(each.is_tensor() for each in proxies):
        return None
    if type(given[0]) in (list, tuple):
        named = {"dtype": torch.get_default_dtype(), **dtype}
        return proxies[0].tracer.create_proxy("call_function", _TENSOR, (list(given[0]),), named)
    return proxies[0].tracer.create_proxy("call_function", _EMPTY, given, dtype)


class _OlderType(type):
    """The type of a class that stands for ``torch.FloatTensor``, say, and answers as it does."""

    def __call__(cls, *given: Any, **options: Any) -> Any:
        found = _recorded(given, options, {"dtype": cls.plain.dtype})
        return cls.plain(*given, **options) if found is None else found

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.plain)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.plain, name)

    def __eq__(cls, other: Any) -> bool:
        return plain_type(other) is cls.plain

    def __hash__(cls) -> int:
        return hash(cls.plain)


def plain_type(kind: Any) -> Any:
    """Return the type of tensors for which a class stands; anything else as it is."""
    return vars(kind)["plain"] if type(kind) is _OlderType else kind


# Those of tensors on the CPU. PyTorch's parser reads the name of a class, as of the argument of `x.type`.
_OLDER = {
    name: _OlderType(f"torch.{name}", (), {"plain": kind})
    for name, kind in vars(torch).items()
    if type(kind) is type(torch.FloatTensor) and not kind.is_cuda
}


@contextlib.contextmanager
def made_recorded() -> Iterator[None]:
    """Record what ``torch.Tensor`` and older types make by sizes, or of a list, that are traced."""
    plain, plain_new = torch.Tensor.__new__, torch.Tensor.new
    kinds = {name: getattr(torch, name) for name in _OLDER}

    def made(kind: Any, *given: Any, **options: Any) -> Any:
        found = _recorded(given, options, {}) if kind is torch.Tensor else None
        return plain(kind, *given, **options) if found is None else found

    def new(tensor: Any, *given: Any, **options: Any) -> Any:
        own = type(tensor) is OwnTensor
        return tensor.recorded().new(*given, **options) if own else plain_new(tensor, *given, **options)

    torch.Tensor.__new__, torch.Tensor.new = made, new  # type: ignore[method-assign, assignment]
    vars(torch).update(_OLDER)
    try:
        yield
    finally:
        vars(torch).update(kinds)
        del torch.Tensor.__new__, torch.Tensor.new
