"""Name the functions that a file may call: those of PyTorch, ``math``, and a few of Python."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

from fxprune.passes.lowering import methods, operator_name, why_not

from .code import AND, COMPARISON, NOT, OR, POWER, PRODUCT, SHIFT, SUM, UNARY, XOR
from .values import UnwritableError

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
_ATTENTION = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None}


def function_name(function: Any) -> str:
    """Return the name of a function as the file writes it.

    Raises:
        UnwritableError: it is not one of PyTorch's.
    """
    name = operator_name(function)
    room, _, last = (name or "").rpartition(".")
    if room == "builtins":
        return last
    if not room.startswith(("torch", "math")):
        where = getattr(function, "__module__", None) or "?"
        raise UnwritableError(f"the function {where}.{getattr(function, '__qualname__', function)}")
    return f"F.{last}" if room == "torch.nn.functional" else f"{room}.{last}"


def check_method(name: str) -> None:
    """Raise UnwritableError unless tensors have a public method of this name that computes."""
    if name not in methods():
        raise UnwritableError(f"the method `{name}`")


def check_attribute(args: tuple[Any, ...]) -> None:
    """Raise UnwritableError unless ``getattr(*args)`` reads a listed attribute."""
    if why := why_not(getattr, args):
        raise UnwritableError(why)


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
    name = getattr(function, "__name__", "")
    if getattr(F, name, None) is function:  # one that decides by an argument hides what it takes
        function = getattr(F, f"_{name}", function)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return {}
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
