"""Read what :mod:`.write` wrote: look every name up in a closed list, and run nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from fxprune.pytorch.graph_module import GraphModule
from fxprune.pytorch.modes import enter, leave, show_blocks
from fxprune.pytorch.modules import named_tensors

from .modules import build_modules, tensors_in_roles
from .nodes import add_node
from .values import is_name

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
    root = build_modules(layers, tensors_in_roles(roles, tensors))
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for each in nodes:
        add_node(graph, each, made, root)
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
