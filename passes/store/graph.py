"""Write and read graph files, of the narrow and of the wide network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.errors import CheckpointError, first_line
from fxprune.passes.serialization import graph_from_json, graph_to_json

from .network import REMEDY

FORMAT, VERSION = "fxprune-graph", 1


def graph_document(module: fx.GraphModule) -> dict[str, Any]:
    """Return the content of a graph file.

    Raises:
        ModelError: a node or tensor cannot be written down.
    """
    return {"format": FORMAT, "version": VERSION, **graph_to_json(module)}


def read_graph(path: Path) -> dict[str, Any]:
    """Read a graph file and check its fields."""
    graph: dict[str, Any] = read_json(path, "graph", CheckpointError, REMEDY)
    check_format(graph, FORMAT, VERSION, path, CheckpointError)
    graph.setdefault("expanded", {})  # of a wide network: which rows of the narrow one's tensors are repeated
    fields: dict[str, tuple[type, ...]] = {"name": (str,), "nodes": (list,), "layers": (dict,), "tensors": (dict,)}
    fields["expanded"] = (dict,)
    check_fields(graph, fields, path, CheckpointError)
    return graph


def build_graph(path: Path, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Build the network of a graph file, with these tensors.

    Raises:
        CheckpointError: the file is damaged, or is the graph of other tensors.
    """
    try:
        return graph_from_json(read_graph(path), tensors)
    except CheckpointError:
        raise
    except Exception as error:  # whatever PyTorch says of names, sizes and arguments that cannot be
        why = first_line(error)[:300]
        raise CheckpointError(f"{path} is damaged: {why.rstrip('.')}. {REMEDY}") from error
