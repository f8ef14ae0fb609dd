"""Read what :mod:`.write` wrote: look every name up in a closed list, and run nothing."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from fxprune.common.graph_module import GraphModule
from fxprune.common.inputs import is_shape
from fxprune.common.modes import enter, leave, show_blocks
from fxprune.common.modules import named_tensors
from fxprune.common.torch_private import child_of, tensor_tables
from fxprune.errors import first_line
from fxprune.passes.lowering import (
    LAYERS,
    build_layer,
    methods,
    operator_of,
    why_not,
)

from .values import from_json, is_name
from .write import OPS

_KINDS = {word: op for op, word in OPS.items()}
# A path becomes Python source within quotes.
_PART = re.compile(r"[^\x00-\x1f\x7f\"'\\{}]{1,200}")
_LONGEST = 1 << 17


def graph_from_json(value: Any, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Build the graph module, in eval mode.

    Args:
        value: what :func:`~fxprune.passes.serialization.write.graph_to_json` returned, from a file that anybody may
            have written.
        tensors: every distinct tensor under its first name.

    Raises:
        ValueError: a node, layer or tensor is not as described; the message names it.
    """
    nodes, layers, roles = (_field(value, name, kind) for name, kind in _FIELDS)
    name = value.get("name")
    if not isinstance(name, str) or not is_name(name):
        raise ValueError(f"a network cannot have the name {str(name)[:40]!r}")
    root = _modules(layers, _parameters(roles, tensors))
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for each in nodes:
        _add(graph, each, made, root)
    if not nodes or [n for n, each in enumerate(graph.nodes) if each.op == "output"] != [len(nodes) - 1]:
        raise ValueError("the last node, and no other, must be an output")
    _check_modes(graph)
    show_blocks(graph)
    module = GraphModule(root, graph, class_name=name)
    graph.lint()
    if unused := roles.keys() - {path for path, _ in named_tensors(module)}:
        raise ValueError(f"no node reads the tensor `{min(unused)[:80]}`")
    return module.eval()


def _check_modes(graph: fx.Graph) -> None:
    """Raise ValueError if a mode that is entered is not left, in the order of ``with`` blocks."""
    entered: list[fx.Node] = []
    for node in graph.nodes:
        if node.target is enter:
            entered.append(node)
        elif node.target is leave and not (entered and node.args == (entered.pop(),)):
            raise ValueError(f"the node `{node}` leaves a mode that was not entered last")
    if entered:
        raise ValueError(f"the mode of node `{entered[0]}` is not left")


_FIELDS: tuple[tuple[str, type], ...] = (("nodes", list), ("layers", dict), ("tensors", dict))


def _field(value: Any, name: str, kind: type) -> Any:
    found: Any = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, (list, dict)) or type(found) is not kind or len(found) > _LONGEST:
        raise ValueError(f"`{name}` is missing, or no {kind.__name__}")
    return found


def _check_path(path: Any) -> str:
    if not isinstance(path, str) or not all(
        _PART.fullmatch(part) and not keyword.iskeyword(part) for part in path.split(".")
    ):
        raise ValueError(f"{str(path)[:60]!r} is no path of a layer or tensor")
    return path


def _parameters(roles: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, bool]]:
    """Return each tensor in its role under each of its names, and whether a state dict holds it."""
    found: dict[str, tuple[Tensor, bool]] = {}
    for name, role in roles.items():
        _check_path(name)
        if not isinstance(role, dict):
            raise ValueError(f"the tensor `{name[:80]}` has no role")
        if "same_as" in role:
            if role.keys() != {"same_as"} or role["same_as"] not in found:
                raise ValueError(f"the tensor `{name[:80]}` is said to be the same as one that is not there")
            found[name] = found[role["same_as"]]
            continue
        found[name] = _in_role(name, role, tensors)
    distinct = {name for name, role in roles.items() if "same_as" not in role}
    if extra := tensors.keys() - distinct:
        raise ValueError(f"the graph has no tensor `{min(extra)[:80]}`")
    return found


def _in_role(name: str, role: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Tensor, bool]:
    flags = {key: role.get(key, key == "persistent") for key in ("parameter", "trains", "persistent")}
    known = role.keys() <= {"dtype", "shape", *flags} and all(type(each) is bool for each in flags.values())
    if not known or not is_shape(role.get("shape")):
        raise ValueError(f"the tensor `{name[:80]}` has no shape, or a field that is unknown")
    tensor = tensors.get(name)
    kind = None if tensor is None else str(tensor.dtype).removeprefix("torch.")
    if tensor is None or [kind, list(tensor.shape)] != [role.get("dtype"), role["shape"]]:
        there = "missing" if tensor is None else f"{kind} {list(tensor.shape)}"
        wanted = f"{str(role.get('dtype'))[:20]} {str(role['shape'])[:60]}"
        raise ValueError(f"the tensor `{name[:80]}` is {there} in the weights, and {wanted} in the graph")
    if not flags["parameter"]:
        return tensor, flags["persistent"]
    if flags["trains"] and not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(f"the tensor `{name[:80]}` cannot be trained, since it is {kind}")
    return nn.Parameter(tensor, requires_grad=flags["trains"]), True


def _modules(layers: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, bool]]) -> nn.Module:
    """Build the tree of layers, with the tensors in place."""
    root = nn.Module()
    for path in sorted(layers, key=lambda each: each.count(".")):  # a layer may lie within another one
        _check_path(path)
        owner, last = _owner(root, path)
        if hasattr(owner, last) and not isinstance(getattr(owner, last), nn.Module):
            raise ValueError(f"a layer cannot have the name `{path[:80]}`")
        owner.add_module(last, _layer(path, layers[path], most=len(tensors)))
    expected = dict(named_tensors(root))
    for name, wanted in expected.items():
        if name not in tensors or tensors[name][0].shape != wanted.shape:
            found = "missing" if name not in tensors else str(list(tensors[name][0].shape))
            raise ValueError(f"its layer needs `{name[:80]}` {list(wanted.shape)}; it is {found}")
    for name, (tensor, persistent) in tensors.items():
        owner, last = _owner(root, name)
        _place(owner, last, tensor, persistent, name)
    return root


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module above a path, made if it is not there, and the last part of the path."""
    *above, last = path.split(".")
    owner = root
    for part in above:
        child = child_of(owner, part)
        if child is None:
            if hasattr(owner, part):
                raise ValueError(f"`{path[:80]}` is within something that is no layer")
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    return owner, last


def _place(owner: nn.Module, last: str, tensor: Tensor, persistent: bool, name: str) -> None:
    parameters, buffers = tensor_tables(owner)
    there = parameters if isinstance(tensor, nn.Parameter) else buffers
    if there.get(last) is not None:  # of a layer, which may keep its tensors elsewhere, too
        setattr(owner, last, tensor)
    elif hasattr(owner, last):
        raise ValueError(f"`{name[:80]}` has another role in its layer")
    elif isinstance(tensor, nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor, persistent=persistent)


def _layer(path: str, value: Any, most: int) -> nn.Module:
    """Build one layer on the meta device, without numbers."""
    if not isinstance(value, dict) or value.keys() != {"class", "settings"} or not isinstance(value["settings"], dict):
        raise ValueError(f"the layer `{path[:80]}` has no class and settings")
    kind = LAYERS.get(value["class"]) if isinstance(value["class"], str) else None
    if kind is None:
        raise ValueError(f"the layer `{path[:80]}` is of the class {str(value['class'])[:60]!r}, which is not listed")
    settings = {name: from_json(each, _no_node) for name, each in value["settings"].items()}
    if issubclass(kind, nn.RNNBase) and not (
        type(settings.get("num_layers", 1)) is int and settings.get("num_layers", 1) <= most
    ):
        raise ValueError(f"the layer `{path[:80]}` has more layers than there are tensors")
    try:
        return build_layer(kind, settings)
    except Exception as error:
        raise ValueError(f"the layer `{path[:80]}` cannot be built: {first_line(error)[:200]}") from error


def _no_node(name: str) -> Any:
    raise ValueError(f"a setting is the node {name[:40]!r}")


def _add(graph: fx.Graph, value: Any, made: dict[str, fx.Node], root: nn.Module) -> None:
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
