"""Name the functions that a file may call: those of PyTorch, ``math``, and a few of Python."""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune.common.torch_private import OpOverload

from .code import AND, COMPARISON, NOT, OR, POWER, PRODUCT, SHIFT, SUM, UNARY, XOR
from .values import UnwritableError, is_name

# Infix and prefix operators, and how tightly they bind.
INFIX: Mapping[Any, tuple[str, int]] = {
    operator.add: ("+", SUM), operator.sub: ("-", SUM), operator.mul: ("*", PRODUCT),
    operator.truediv: ("/", PRODUCT), operator.floordiv: ("//", PRODUCT), operator.mod: ("%", PRODUCT),
    operator.matmul: ("@", PRODUCT), operator.pow: ("**", POWER), operator.lshift: ("<<", SHIFT),
    operator.rshift: (">>", SHIFT), operator.and_: ("&", AND), operator.xor: ("^", XOR), operator.or_: ("|", OR),
    operator.eq: ("==", COMPARISON), operator.ne: ("!=", COMPARISON), operator.lt: ("<", COMPARISON),
    operator.le: ("<=", COMPARISON), operator.gt: (">", COMPARISON), operator.ge: (">=", COMPARISON),
    operator.is_: ("is", COMPARISON), operator.is_not: ("is not", COMPARISON),
}  # fmt: skip
PREFIX: Mapping[Any, tuple[str, int]] = {
    operator.neg: ("-", UNARY), operator.pos: ("+", UNARY), operator.invert: ("~", UNARY), operator.not_: ("not ", NOT),
}  # fmt: skip
# Methods that write to their tensor, as augmented assignments.
AUGMENTED: Mapping[str, str] = {"add_": "+=", "sub_": "-=", "mul_": "*=", "div_": "/="}
_BUILTINS = ("abs", "bool", "float", "int", "len", "max", "min", "round", "sum", "tuple", "list")
# Methods of tensors that do more than compute.
_DENIED = frozenset(
    {
        "apply_", "map_", "map2_", "backward", "register_hook", "register_post_accumulate_grad_hook", "retain_grad",
        "numpy", "tolist", "share_memory_", "pin_memory", "set_", "storage", "untyped_storage", "data_ptr",
        "record_stream", "module_load", "resize_",
    }
)  # fmt: skip
_ATTENTION = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None}


@functools.cache
def _names() -> Mapping[int, str]:
    """Map the id of each function to its shortest name."""
    names: dict[int, str] = {}
    spaces = {
        "F": F,
        "torch": torch,
        "torch.linalg": torch.linalg,
        "torch.fft": torch.fft,
        "torch.special": torch.special,
    }
    for space, module in spaces.items():
        for name, value in vars(module).items():
            if not name.startswith("_") and callable(value) and not inspect.isclass(value):
                names.setdefault(id(value), f"{space}.{name}")
    names |= {id(value): f"math.{name}" for name, value in vars(math).items() if callable(value)}
    return names | {id(getattr(builtins, name)): name for name in _BUILTINS}


def function_name(function: Any) -> str:
    """Return the name of a function as the file writes it.

    Raises:
        UnwritableError: it is not one of PyTorch's.
    """
    if isinstance(function, OpOverload):
        name = f"torch.ops.{function}"
        if not name.startswith("torch.ops.aten.") or not all(map(is_name, name.split(".")[3:])):
            raise UnwritableError(f"the operator {function}")
        return name
    name = _names().get(id(function), "")
    if not name:
        where = getattr(function, "__module__", None) or "?"
        raise UnwritableError(
            f"the function {where}.{getattr(function, '__qualname__', function)}, which is not PyTorch's"
        )
    return name


def check_method(name: str) -> None:
    """Raise UnwritableError unless tensors have a public method of this name."""
    if not is_name(name) or name.startswith("_") or name in _DENIED or not hasattr(Tensor, name):
        raise UnwritableError(f"the method `{name}`")


def check_attribute(name: Any) -> None:
    """Raise UnwritableError unless tensors or sizes have a public attribute of this name."""
    known = type(name) is str and is_name(name) and not name.startswith("_")
    if not known or not any(hasattr(kind, name) for kind in (Tensor, torch.device, torch.finfo(), slice(0))):
        raise UnwritableError(f"the attribute {str(name)[:40]!r}")


def needed(function: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that are not at their defaults."""
    defaults = _defaults(function)
    return {
        name: value
        for name, value in kwargs.items()
        if name not in defaults or type(value) is not type(defaults[name]) or value != defaults[name]
    }


@functools.cache
def _defaults(function: Any) -> Mapping[str, Any]:
    if function is F.scaled_dot_product_attention:
        return _ATTENTION
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return {}
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
