"""Read the layers and tensors of a graph, in their places."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fxprune.arguments.inputs import is_shape
from fxprune.errors import first_line
from fxprune.passes.lowering import LAYERS, build_layer
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.precision import dtype_name
from fxprune.pytorch.torch_private import child_of, tensor_tables

from .values import from_json

# A path becomes Python source within quotes.
_PART = re.compile(r"[^\x00-\x1f\x7f\"'\\{}]{1,200}")


def _check_path(path: Any) -> str:
    if not isinstance(path, str) or not all(
        _PART.fullmatch(part) and not keyword.iskeyword(part) for part in path.split(".")
    ):
        raise ValueError(f"{str(path)[:60]!r} is no path of a layer or tensor")
    return path


def tensors_in_roles(roles: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, bool]]:
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
    kind = None if tensor is None else dtype_name(tensor.dtype)
    if tensor is None or [kind, list(tensor.shape)] != [role.get("dtype"), role["shape"]]:
        there = "missing" if tensor is None else f"{kind} {list(tensor.shape)}"
        wanted = f"{str(role.get('dtype'))[:20]} {str(role['shape'])[:60]}"
        raise ValueError(f"the tensor `{name[:80]}` is {there} in the weights, and {wanted} in the graph")
    if not flags["parameter"]:
        return tensor, flags["persistent"]
    if flags["trains"] and not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(f"the tensor `{name[:80]}` cannot be trained, since it is {kind}")
    return nn.Parameter(tensor, requires_grad=flags["trains"]), True


def build_modules(layers: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, bool]]) -> nn.Module:
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
        _set_tensor(owner, last, tensor, persistent, name)
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


def _set_tensor(owner: nn.Module, last: str, tensor: Tensor, persistent: bool, name: str) -> None:
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
