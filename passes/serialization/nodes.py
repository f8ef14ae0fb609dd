"""Read the nodes of a graph: look every name up in a closed list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from fxprune.errors import first_line
from fxprune.passes.lowering import methods, operator_of, why_not
from fxprune.pytorch.torch_private import tensor_tables

from .values import from_json, is_name
from .write import OPS

_KINDS = {word: op for op, word in OPS.items()}


def add_node(graph: fx.Graph, value: Any, made: dict[str, fx.Node], root: nn.Module) -> None:
    """Add one node to the graph."""
    if not isinstance(value, dict) or not value.keys() <= {"name", "op", "target", "args", "kwargs"}:
        raise ValueError(f"{str(value)[:60]} is no node")
    name, op, target = (value.get(field) for field in ("name", "op", "target"))
    if not (isinstance(name, str) and isinstance(op, str) and isinstance(target, str)) or op not in _KINDS:
        raise ValueError(f"the node {str(name)[:60]!r} has no name, operation and target")
    if not is_name(name) or name in made:
        raise ValueError(f"the node {name[:60]!r} has a name that is not possible, or is there twice")

    def node(wanted: str) -> fx.Node:
        if wanted not in made:
            raise ValueError(f"the node `{name}` reads `{wanted[:60]}`, which does not come before it")
        return made[wanted]

    given = value.get("args", []), value.get("kwargs", {})
    if not isinstance(given[0], list) or not isinstance(given[1], dict):
        raise ValueError(f"the node `{name}` has no list of arguments")
    try:
        args = tuple(from_json(each, node) for each in given[0])
        kwargs = {key: from_json(each, node) for key, each in given[1].items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the node `{name}`: {first_line(error)}") from error
    if not all(map(is_name, kwargs)):
        raise ValueError(f"the node `{name}` has an argument with an impossible name")
    resolved = _RESOLVE[_KINDS[op]](name, target, args, root)
    made[name] = graph.create_node(_KINDS[op], resolved, args, kwargs, name)


def _input(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    if not is_name(target.removeprefix("*").removeprefix("*")) or len(args) > 1:
        raise ValueError(f"the input `{name}` has an impossible name")
    return target


def _tensor(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    owner, _, last = target.rpartition(".")
    try:
        tables = tensor_tables(root.get_submodule(owner))
    except AttributeError:
        tables = ({}, {})
    if all(table.get(last) is None for table in tables):
        raise ValueError(f"the node `{name}` reads the tensor `{target[:80]}`, which is not there")
    return target


def _call_of_layer(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    try:
        layer = root.get_submodule(target)
    except AttributeError:
        layer = nn.Module()
    if type(layer) is nn.Module:
        raise ValueError(f"the node `{name}` calls the layer `{target[:80]}`, which is not there")
    return target


def _function(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    function = operator_of(target)
    if function is None:
        raise ValueError(f"the node `{name}` calls {target[:60]!r}, which is not in the list of functions")
    if why := why_not(function, args):
        raise ValueError(f"the node `{name}` calls {target}: {why}")
    return function


def _method(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    if target not in methods() or not args:
        raise ValueError(f"the node `{name}` calls the method {target[:60]!r}, which is not in the list")
    return target


def _output(name: str, target: str, args: tuple[Any, ...], root: nn.Module) -> Any:
    if len(args) != 1:
        raise ValueError(f"the output has {len(args)} values")
    return target


_RESOLVE: Mapping[str, Callable[[str, str, tuple[Any, ...], nn.Module], Any]] = {
    "placeholder": _input,
    "get_attr": _tensor,
    "call_module": _call_of_layer,
    "call_function": _function,
    "call_method": _method,
    "output": _output,
}
