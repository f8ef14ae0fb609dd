"""Proxies claim the type of their value to Python code only, never to C code.

C code that believes it would read the memory of a proxy as that of a tensor.
``isinstance`` cannot tell who asks, so it is answered in Python while a trace runs, and C code sees what is true.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxprune.pytorch.source import short
from fxprune.pytorch.torch_private import CHECK_ALL_WITH, CHECK_WITH, assert_tensor, pytree

from .own_tensors import OwnTensor
from .tensor_types import made_recorded, plain_type

if TYPE_CHECKING:
    from .proxies import ConcreteProxy

# That of torch.FloatTensor and its kin, whose `isinstance` is written in C.
_LEGACY: type = type(torch.FloatTensor)
_READS = dis.opmap["LOAD_ATTR"]
_claiming = False


def claims_type(asker: FrameType) -> bool:
    """Tell whether this frame, which reads ``__class__``, gets the type of the value."""
    return _claiming or asker.f_code.co_code[asker.f_lasti] == _READS


@contextlib.contextmanager
def types_claimed(kind: type) -> Iterator[None]:
    """Let ``isinstance``, ``callable`` and PyTorch's checks take proxies for their values.

    A check of a tensor's values is a node, which raises RuntimeError.

    Raises:
        TraceError: in the block, for a legacy type of tensors, if types and devices stay dynamic.
    """
    given, asked = builtins.isinstance, builtins.callable
    check, check_all = getattr(torch, CHECK_WITH), getattr(torch, CHECK_ALL_WITH)
    claims: dict[type, bool] = {}

    def answer(value: Any, kinds: Any) -> bool:
        global _claiming
        own = type(value)
        if own not in claims:
            claims[own] = issubclass(own, (kind, OwnTensor))
        if not claims[own]:
            return given(value, kinds)
        if issubclass(own, kind):
            asker = sys._getframe(1)
            value.tracer.kind_asked(value, asker.f_back if asker.f_code is torch.is_tensor.__code__ else asker)
        every = [plain_type(each) for each in pytree.tree_leaves(kinds)]
        legacy = [each for each in every if type(each) is _LEGACY]
        if legacy:
            kinds = tuple(each for each in every if type(each) is not _LEGACY)
        before, _claiming = _claiming, True
        try:
            known = given(value, kinds)
        finally:
            _claiming = before
        return known or any(_is_of(value, each) for each in legacy)

    def is_called(value: Any) -> bool:
        attribute = issubclass(type(value), fx.proxy.Attribute)
        return asked(value) and (attribute or not issubclass(type(value), kind))

    def checked(error: Any, condition: Any, message: Any = None) -> None:
        check(error, bool(condition) if issubclass(type(condition), kind) else condition, message)

    def all_checked(error: Any, condition: Any, message: Any = None) -> None:
        if issubclass(type(condition), kind):
            assert_tensor(condition.all(), _said(message))
        else:
            check_all(error, condition, message)

    builtins.isinstance, builtins.callable = answer, is_called  # type: ignore[assignment]
    setattr(torch, CHECK_WITH, checked)
    setattr(torch, CHECK_ALL_WITH, all_checked)
    try:
        with made_recorded():
            yield
    finally:
        builtins.isinstance, builtins.callable = given, asked
        setattr(torch, CHECK_WITH, check)
        setattr(torch, CHECK_ALL_WITH, check_all)


def _said(message: Any) -> str:
    """Return the message of a check, or its line: a function that is called may read sizes."""
    if isinstance(message, str):
        return message
    code = getattr(message, "__code__", None)
    where = f" at {short(code.co_filename)}:{code.co_firstlineno}" if code else ""
    return f"the check{where} fails"


def _is_of(value: ConcreteProxy | OwnTensor, kind: Any) -> bool:
    proxy: Any = value.recorded() if type(value) is OwnTensor else value
    if not proxy.is_tensor():
        return False
    if not proxy.tracer.literal:
        raise fx.proxy.TraceError(f"the model asks whether a tensor is a {kind.__module__}.{kind.__name__}")
    device = "cuda" if kind.is_cuda else "cpu"
    return bool((proxy.dtype, proxy.device.type, proxy.layout) == (kind.dtype, device, kind.layout))
