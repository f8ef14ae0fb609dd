"""Let a graph return only the outputs that count, and compute nothing for others.

A network may also return objects that no graph holds, as the cache of a language model. Where these do not count, a
capture takes them for None.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.arguments.misfits import unfit
from fxprune.arguments.outputs import Outputs, check_known, counts
from fxprune.arguments.records import fields_of
from fxprune.equivalence import unchanged, values_of
from fxprune.errors import CaptureError
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.modules import clone_sharing, device_of, named_tensors
from fxprune.pytorch.source import source_of_error
from fxprune.pytorch.torch_private import has_effect, may_write

# A node that writes into a tensor stays: what it wrote may be read elsewhere.
_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, slice, range)
_WRITES = frozenset({operator.setitem, operator.delitem, setattr, delattr})


def select_outputs(module: fx.GraphModule, outputs: Outputs) -> None:
    """Return only some outputs of a captured graph, in the same container.

    An output that does not count is None, or absent from a dict; so what counts keeps its name or number.

    Raises:
        OptionError: a name is unknown.
    """
    (output,) = module.graph.find_nodes(op="output")
    selection = _Selection(module.graph, outputs)
    with module.graph.inserting_before(output):
        kept = selection.keep(output.args[0], "")
    check_known(outputs, selection.places)
    output.args = (kept,)
    _remove_unused(module, selection.dropped)
    module.recompile()


def without_objects(model: nn.Module, outputs: Sequence[str]) -> nn.Module:
    """Copy a model that shares its tensors and returns None for each object that does not count."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        for place, _kind in _objects(output):
            if not counts(place, outputs):
                output = _without(output, place.split("."))
        return output

    twin = clone_sharing(model)
    twin.register_forward_hook(hook)
    return twin


def object_returned(model: nn.Module, inputs: Inputs) -> str:
    """Name an object that a model returns and no graph holds, with a remedy; empty for none.

    Raises:
        CaptureError: the model does not run on the example itself.
    """
    given = values_of(inputs, device_of(model))
    try:
        with torch.no_grad(), unchanged(model):
            returned = run_on(clone_sharing(model).eval(), given)
    except Exception as error:  # a model may raise anything
        if isinstance(error, NotImplementedError) or _lacks_numbers(model, inputs):
            return ""
        why = unfit(model, inputs, error, at=f" at {source_of_error(error)}")
        raise CaptureError(f"{type(model).__name__} {why}") from error
    place, kind = next(_objects(returned), ("", ""))
    if not kind:
        return ""
    said = f"an object of {kind} as `{place or 'output'}`, which no graph holds: "
    inside = [name for name, _ in model.named_children()]
    if len(inside) == 1:  # the predictor of a library, around its network
        return said + f"give the network inside, its `{inside[0]}`, or let it return tensors in a tuple or dict"
    if not place:
        return said + "let it return tensors in a tuple, dict or dataclass"
    return said + 'name the outputs that count, as `outputs=["logits"]`, or give inputs for which it returns none'


def _lacks_numbers(model: nn.Module, inputs: Inputs) -> bool:
    """Tell whether a weight is unknown, or an index, of which a number drawn may be too large."""
    indices = (x for x in tensors_of(inputs) if not x.is_floating_point())
    return any(x.is_meta for x in (*(tensor for _, tensor in named_tensors(model)), *indices))


def _objects(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield place and type of everything that is neither a tensor, a constant nor a container."""
    if issubclass(type(value), (fx.Proxy, torch.Tensor, *_CONSTANTS)):  # the class of a proxy may be another
        return
    fields = dict(enumerate(value)) if isinstance(value, (tuple, list)) else fields_of(value)
    if fields is None:
        yield place, type(value).__name__
    for key, each in (fields or {}).items():
        yield from _objects(each, _place_inside(place, key))


def _without(value: Any, path: list[str]) -> Any:
    """Copy a nest of containers with None at a place, or nothing in a dict."""
    if not path:
        return None
    if isinstance(value, (tuple, list)):
        inside = [_without(each, path[1:]) if str(number) == path[0] else each for number, each in enumerate(value)]
        return type(value)(*inside) if hasattr(value, "_fields") else type(value)(inside)
    fields = fields_of(value) or {}
    changed = {key: _without(each, path[1:]) if str(key) == path[0] else each for key, each in fields.items()}
    twin = copy.copy(value)
    if dataclasses.is_dataclass(value):
        if isinstance(value, dict):  # as the outputs of `transformers`, which make their keys of their fields
            return dataclasses.replace(twin, **changed)
        for key, each in changed.items():
            object.__setattr__(twin, key, each)
        return twin
    for key, each in changed.items():
        if len(path) > 1 or str(key) != path[0]:
            twin[key] = each
        else:
            del twin[key]
    return twin


class _Selection:
    """A walk through what a graph returns."""

    def __init__(self, graph: fx.Graph, outputs: Outputs) -> None:
        self.graph, self.outputs = graph, outputs
        self.places: list[str] = []
        self.dropped: list[fx.Node] = []

    def keep(self, value: Any, place: str) -> Any:
        """Return what counts of a value; None if nothing does."""
        if isinstance(value, fx.Node):
            fields = _fields_made(value)
            return self._leaf(value, place) if fields is None else self._made(value, fields, place)
        if isinstance(value, dict):
            return self._present(value, place)
        if isinstance(value, tuple | list):
            inside = [self.keep(each, _place_inside(place, number)) for number, each in enumerate(value)]
            if place and inside and all(each is None for each in inside):
                return None
            if hasattr(value, "_fields"):
                return type(value)(*inside)
            return inside if isinstance(value, list) else tuple(inside)
        return value

    def _leaf(self, node: fx.Node, place: str) -> fx.Node | None:
        self.places.append(place)
        if counts(place, self.outputs):
            return node
        self.dropped.append(node)
        return None

    def _present(self, fields: Any, place: str) -> dict[Any, Any] | None:
        """Leave out what does not count, and keep what was None before."""
        kept = {key: self.keep(each, _place_inside(place, key)) for key, each in fields.items()}
        present = {key: each for key, each in kept.items() if each is not None or fields[key] is None}
        return present if present or not place else None

    def _made(self, node: fx.Node, fields: Any, place: str) -> fx.Node | None:
        """Make a container of the same class, as those of transformers."""
        kind: Any = node.target
        self.dropped.append(node)
        if issubclass(kind, dict) and not dataclasses.is_dataclass(kind):
            present = self._present(fields, place)
            return None if present is None else self.graph.call_function(kind, (present,))
        kept = {name: self.keep(each, _place_inside(place, name)) for name, each in fields.items()}
        if place and all(each is None for each in kept.values()):
            return None
        make: Any = kind  # or the type checker takes it for an instance
        return self.graph.call_function(make, (), kept)


def _fields_made(node: fx.Node) -> Any:
    """Return what a node puts into a container by name; None if it makes none."""
    kind = node.target
    if node.op != "call_function" or not isinstance(kind, type):
        return None
    if dataclasses.is_dataclass(kind) and not node.args:
        return node.kwargs
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return dict(zip(kind._fields, node.args, strict=False)) | node.kwargs
    return node.args[0] if issubclass(kind, dict) and len(node.args) == 1 and isinstance(node.args[0], dict) else None


def _place_inside(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _remove_unused(module: fx.GraphModule, nodes: list[fx.Node]) -> None:
    """Remove nodes that nothing uses, then what only they used, and the layers of both."""
    gone: set[str] = set()
    waiting = dict.fromkeys(nodes)
    while waiting:
        node = waiting.popitem()[0]
        if node.users or node.op in ("placeholder", "output") or _writes(node, module):
            continue
        waiting |= dict.fromkeys(node.all_input_nodes)
        if node.op == "call_module":
            gone.add(str(node.target))
        module.graph.erase_node(node)
    used = {str(node.target) for node in module.graph.nodes if node.op in ("call_module", "get_attr")}
    for name in gone:
        if not any(f"{each}.".startswith(f"{name}.") for each in used):
            module.delete_submodule(name)


def _alone(node: fx.Node, module: fx.GraphModule) -> bool:
    """Tell whether a node alone reads the fresh result of a layer."""
    read = node.args[0] if node.args else None
    if not isinstance(read, fx.Node) or read.op != "call_module" or len(read.users) > 1:
        return False
    return is_shaped(module.get_submodule(str(read.target)))


def _writes(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        return bool((getattr(layer, "inplace", False) and not _alone(node, module)) or has_effect(layer))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    private = name.startswith("__")  # such as __getitem__
    writes = (name.endswith("_") and not private) or name.split(".")[0].endswith("_") or name.startswith("__i")
    writes = writes or bool(node.kwargs.get("inplace") or "out" in node.kwargs or may_write(node.target))
    known = (
        getattr(operator, name, None) is node.target and name.startswith("i") and name not in ("invert", "inv", "index")
    )
    return node.target in _WRITES or writes or known or node.is_impure()
