"""Write a node of the graph as a Python expression of the expressions of its arguments."""

from __future__ import annotations

import builtins
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxprune.arguments.records import Record, named_tuple
from fxprune.capture import ModeSwitch

from .code import CALL, CHOICE, COMPARISON, POWER, SUM, Bracket, Code, call, join, text
from .functions import INFIX, PREFIX, check_attribute, check_method, function_name, needed
from .values import UnwritableError, constant, is_name, plain_value, quoted, sequence

Names = Callable[[fx.Node], Code]
_SIZED = frozenset(
    {"view", "reshape", "expand", "repeat", "unflatten", "resize", "new_zeros", "zeros", "ones", "arange"}
)


def expression(node: fx.Node, names: Names, modules: Mapping[str, Any]) -> Code:
    """Write a call of a function or method as an expression.

    Raises:
        UnwritableError: the closed lists do not have it.
    """
    if node.op == "call_module":
        layer = modules[str(node.target)]
        if isinstance(layer, ModeSwitch):
            if (layer.trained, layer.evaluated) == (True, False):
                return text("self.training", CALL)
            trained, evaluated = constant(layer.trained, "trained"), constant(layer.evaluated, "evaluated")
            return join(trained, " if self.training else ", evaluated, level=CHOICE)
        return call(accessor(str(node.target)), *arguments(node, names))
    if node.op == "call_method":
        return _method(node, names)
    target, args = node.target, node.args
    if target is builtins.getattr and len(args) == 2:
        check_attribute(args)
        return join(argument(args[0], names).inside(CALL), f".{args[1]}", level=CALL)
    if target is operator.getitem:
        return item_of(args, names)
    if target in INFIX and len(args) == 2 and not node.kwargs:
        return _infix(*INFIX[target], argument(args[0], names, role_in(node)), argument(args[1], names, role_in(node)))
    if target in PREFIX:
        sign, level = PREFIX[target]
        return join(sign, argument(args[0], names).inside(level), level=level)
    if target in (Record, OrderedDict) and args:
        return argument(args[0], names)
    if target is named_tuple:
        return argument(args[2], names)
    if target is builtins.slice:
        return call("slice", *arguments(node, names))
    return call(function_name(target), *arguments(node, names))


def item_of(args: Sequence[Any], names: Names) -> Code:
    """Write ``a[index]``, for the arguments of ``getitem`` or ``setitem``."""
    return join(argument(args[0], names).inside(CALL), "[", _index(args[1], names), "]", level=CALL)


def accessor(path: str) -> Code:
    """Write the way to a module or tensor: ``self.blocks[0].attn``, ``getattr(self, "in")``."""
    written = "self"
    for name in path.split("."):
        if name.isdecimal() and name.isascii():
            written += f"[{int(name)}]"
        elif is_name(name):
            written += f".{name}"
        else:
            written = f"getattr({written}, {quoted(name)})"
    return text(written, CALL)


def assignment(path: str) -> tuple[str, str]:
    """Return what to write before and after what a module or tensor becomes."""
    owner, _, last = path.rpartition(".")
    if is_name(last) or last.isdecimal():
        return f"{accessor(path).line()} = ", ""
    return f"setattr({accessor(owner).line() if owner else 'self'}, {quoted(last)}, ", ")"


def arguments(node: fx.Node, names: Names) -> tuple[list[Code], dict[str, Code]]:
    """Write the arguments of a call, without keyword arguments at their defaults."""
    role = role_in(node)
    kwargs = needed(node.target, node.kwargs) if node.op == "call_function" else node.kwargs
    if bad := [name for name in kwargs if not is_name(name)]:
        raise UnwritableError(f"the argument name {bad[0][:40]!r}")
    named = {name: argument(value, names, name) for name, value in kwargs.items()}
    return [argument(value, names, role) for value in node.args], named


def argument(value: Any, names: Names, role: str = "value") -> Code:
    """Write an argument: a node, a constant, or a nest of them."""
    if isinstance(value, fx.Node):
        return names(value)
    value = tuple(value) if isinstance(value, torch.Size) else value
    value = list(value) if isinstance(value, fx.immutable_collections.immutable_list) else value
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return sequence(value, [argument(each, names, role) for each in value])
    if isinstance(value, dict):
        items = tuple(join(plain_value(k), ": ", argument(v, names, role)) for k, v in value.items())
        return join(Bracket("{", items, "}"))
    if isinstance(value, slice):
        return call("slice", [argument(each, names, role) for each in (value.start, value.stop, value.step)])
    return constant(value, role)


def role_in(node: fx.Node) -> str:
    """Return what a number in a call is: the size of a view, a scale, or any value."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _SIZED:
        return "size"
    return {"mul": "scale", "truediv": "scale", "getitem": "bound", "split": "size", "floordiv": "size"}.get(
        name, "value"
    )


def _infix(sign: str, level: int, left: Code, right: Code) -> Code:
    tight, loose = left.inside(level), right.inside(level + 1)
    if level == COMPARISON:
        tight = left.inside(level + 1)
    if level == POWER:
        tight, loose = left.inside(POWER + 1), right.inside(POWER)
        simple = all(side.level >= CALL and "(" not in side.line() and "[" not in side.line() for side in (left, right))
        return join(tight, sign if simple else f" {sign} ", loose, level=level)
    return join(tight, f" {sign} ", loose, level=level)


def _method(node: fx.Node, names: Names) -> Code:
    name = str(node.target)
    check_method(name)
    owner = argument(node.args[0], names)
    if isinstance(node.args[0], fx.Node):
        args, kwargs = arguments(node, names)
        if name == "size" and len(args) == 2 and not kwargs:
            return join(owner.inside(CALL), ".shape[", args[1], "]", level=CALL)
        if name == "size" and len(args) == 1 and not kwargs:
            return join(owner.inside(CALL), ".shape", level=CALL)
        return call(join(owner.inside(CALL), f".{name}", level=CALL), args[1:], kwargs)
    raise UnwritableError(f"the method `{name}` of a constant")


def _index(value: Any, names: Names) -> Code:
    if isinstance(value, tuple) and len(value) > 1:
        parts: list[Any] = []
        for position, each in enumerate(value):
            parts += [", "] if position else []
            parts.append(_index(each, names))
        return join(*parts)
    if isinstance(value, slice):
        bounds = [None if each is None else argument(each, names, "bound") for each in (value.start, value.stop)]
        wide = any(bound is not None and bound.level <= SUM for bound in bounds)
        left, right = (f"{'' if bound is None else bound.line()}" for bound in bounds)
        space = " " if wide else ""
        parts = [bounds[0] or "", f"{space if left else ''}:{space if right else ''}", bounds[1] or ""]
        if value.step is not None:
            parts += [":", argument(value.step, names, "bound")]
        return join(*parts)
    return argument(value, names, "bound")
