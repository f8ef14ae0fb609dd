"""Write the graph of coupled layers as DOT, GraphML or Mermaid, for other programs to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import networkx as nx


def dot(graph: nx.MultiGraph) -> str:
    """Write DOT: solid edges join makers of the same channels, dashed ones lead to readers."""
    lines = ["graph coupling {", "  node [shape=box];"]
    lines += [f'  "{_quoted(node)}";' for node in graph]
    for a, b, edge in graph.edges(data=True):
        style = "solid" if edge["role"] == "tied" else "dashed"
        label = _quoted(f"{edge['group']} ({edge['width']})")
        lines.append(f'  "{_quoted(a)}" -- "{_quoted(b)}" [label="{label}", style={style}];')
    return "\n".join([*lines, "}"]) + "\n"


def graphml(graph: nx.MultiGraph) -> str:
    """Write GraphML, with the group, role and width of each edge."""
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def mermaid(graph: nx.MultiGraph) -> str:
    """Write Mermaid: thick lines join makers of the same channels, arrows lead to readers."""
    ids = {node: f"n{i}" for i, node in enumerate(graph)}
    lines = ["flowchart TD"]
    lines += [f'  {ids[node]}["{_entities(node)}"]' for node in graph]
    for a, b, edge in graph.edges(data=True):
        arrow = "===" if edge["role"] == "tied" else "-.->"
        lines.append(f'  {ids[a]} {arrow}|"{_entities(edge["group"])} ({edge["width"]})"| {ids[b]}')
    return "\n".join(lines) + "\n"


DRAWINGS: Mapping[str, Callable[[nx.MultiGraph], str]] = {"dot": dot, "graphml": graphml, "mermaid": mermaid}


def _quoted(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"')


def _entities(text: object) -> str:
    """Escape ``#``, which opens an entity in Mermaid, and quotes, which end the label."""
    return str(text).replace("#", "#35;").replace('"', "#quot;")
