"""Drawings of the coupling quote their names, and GraphML reads back."""

from __future__ import annotations

import networkx as nx
import pytest

from fxprune.cli.drawing import DRAWINGS


@pytest.fixture
def graph():
    graph = nx.MultiGraph()
    graph.add_edge("conv1", 'bn "1"', group="conv1.weight", role="tied", width=8)
    graph.add_edge("conv1", "conv2", group="conv1.weight#2", role="reader", width=4)
    return graph


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("dot", ['"conv1" -- "bn \\"1\\"" [label="conv1.weight (8)", style=solid];', "style=dashed"]),
        ("mermaid", ['n1["bn #quot;1#quot;"]', 'n0 ===|"conv1.weight (8)"| n1', 'n0 -.->|"conv1.weight#35;2 (4)"| n2']),
    ],
)
def test_drawings_are_quoted(graph, kind, parts):
    text = DRAWINGS[kind](graph)
    for part in parts:
        assert part in text


def test_graphml_reads_back(graph):
    again = nx.parse_graphml(DRAWINGS["graphml"](graph), force_multigraph=True)
    assert set(again) == set(graph)
    assert sorted(edge["group"] for *_, edge in again.edges(data=True)) == ["conv1.weight", "conv1.weight#2"]
