"""The graph of coupled layers as text that other programs draw: DOT, GraphML and Mermaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import networkx as nx


def dot(graph: nx.MultiGraph) -> str:
    """Graphviz: solid edges join layers that make the same channels, dashed ones lead to who reads them."""
    lines = ["graph coupling {", "  node [shape=box];"]
    lines += [f'  "{_quoted(node)}";' for node in graph]
    for a, b, edge in graph.edges(data=True):
        style = "solid" if edge["role"] == "tied" else "dashed"
        label = _quoted(f"{edge['group']} ({edge['width']})")
        lines.append(f'  "{_quoted(a)}" -- "{_quoted(b)}" [label="{label}", style={style}];')
    return "\n".join([*lines, "}"]) + "\n"


def graphml(graph: nx.MultiGraph) -> str:
    """GraphML, with the group, role and width of each edge."""
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def mermaid(graph: nx.MultiGraph) -> str:
    """Mermaid flow chart: thick lines join layers that make the same channels, arrows lead to who reads them."""
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
    """``#`` opens an entity in Mermaid, and a quote ends the label."""
    return str(text).replace("#", "#35;").replace('"', "#quot;")
