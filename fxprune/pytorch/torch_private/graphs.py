"""Reach into graphs of torch.fx: their nodes, tracers and pickles."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import fx, nn

GRAPH = "_graph"  # the attribute of a graph module
# The state of a graph module that its constructor makes again.
MADE_AGAIN = (GRAPH, "_tracer_cls")
# Keys of the state that PyTorch pickles: the name of the class, and the lines of nodes.
CLASS_NAME, LINES = "_graphmodule_cls_name", "_graphmodule_graph_node_meta_stack_trace"
# Attributes that torch.fx sets in proxies.
OF_PROXIES = frozenset({"tracer", "node", "root", "attr", "_node"})

_Layer = TypeVar("_Layer", bound=type[nn.Module])


def newest_node(graph: fx.Graph) -> fx.Node:
    """Return the node that was recorded last."""
    return graph._root.prev


def tracer_class(graph: fx.Graph) -> Any:
    """Return the class of the tracer that made a graph; a copy of the graph must name it too."""
    return getattr(graph, "_tracer_cls", None)


def wrapped_functions() -> dict[Any, dict[str, Any]]:
    """Return the mutable map (scope, name) -> scope of functions that ``torch.fx.wrap`` got."""
    return fx._symbolic_trace._wrapped_fns_to_patch


def with_effect(kind: _Layer) -> _Layer:
    """Let torch.fx keep calls of layers of a class, also where nothing reads what they return."""
    kind._is_impure = True  # type: ignore[attr-defined]
    return kind


def has_effect(layer: nn.Module) -> bool:
    """Tell whether :func:`with_effect` marked the class of a layer."""
    return bool(getattr(layer, "_is_impure", False))
