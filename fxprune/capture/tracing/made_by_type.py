"""Record the tensors that a model makes by a type, by sizes that are traced.

``torch.Tensor(2, n)``, ``type(x)(x.shape)`` and ``x.new(2, n)`` are older names of ``torch.empty`` and its kin.
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
        name, given = _named(given) if not options else ("new", given)
        return self.tracer.create_proxy("call_method", name, (self, *given), options)  # type: ignore[attr-defined]


def _named(given: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    if len(given) == 1 and type(given[0]) in (list, tuple):
        return "new_tensor", (list(given[0]),)
    if len(given) == 1 and (type(given[0]) is torch.Size or (_is_proxy(given[0]) and given[0].is_sequence())):
        return "new_empty", given
    numbers = (type(each) is int or (_is_proxy(each) and not each.is_tensor()) for each in given)
    return ("new_empty", (given or (0,),)) if all(numbers) else ("new", given)


def _is_proxy(value: Any) -> bool:
    return issubclass(type(value), fx.Proxy)


@contextlib.contextmanager
def made_recorded() -> Iterator[None]:
    """Record what ``torch.Tensor`` makes by sizes, or of a list of numbers, that are traced."""
    plain, plain_new = torch.Tensor.__new__, torch.Tensor.new

    def made(kind: Any, *given: Any, **options: Any) -> Any:
        proxies = [leaf for leaf in pytree.tree_leaves(given) if _is_proxy(leaf)]
        if kind is not torch.Tensor or options or not proxies or any(each.is_tensor() for each in proxies):
            return plain(kind, *given, **options)
        if type(given[0]) in (list, tuple):
            named = {"dtype": torch.get_default_dtype()}
            return proxies[0].tracer.create_proxy("call_function", _TENSOR, (list(given[0]),), named)
        return proxies[0].tracer.create_proxy("call_function", _EMPTY, given, {})

    def new(tensor: Any, *given: Any, **options: Any) -> Any:
        own = type(tensor) is OwnTensor
        return tensor.recorded().new(*given, **options) if own else plain_new(tensor, *given, **options)

    torch.Tensor.__new__, torch.Tensor.new = made, new  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del torch.Tensor.__new__, torch.Tensor.new
