"""Build the wide network of a folder: by its name, or by its graph."""

from __future__ import annotations

import json
import math
from pathlib import Path

from torch import fx, nn

from fxprune.common.files import write_text
from fxprune.errors import CheckpointError
from fxprune.models_zoo import build_within, spec_from_json
from fxprune.plan_file import StoredPlan
from fxprune.plans import Plan

from .graph import build_graph, graph_document, read_graph
from .layout import NETWORK, PLAN, SNAPPED, WEIGHTS, WIDE_GRAPH
from .network import REMEDY, plan_document, read_network
from .weights import distinct_tensors, read_tensors

NARROWEST = 4096


def build_wide(folder: Path, narrow: fx.GraphModule, *, first: bool = False) -> nn.Module | None:
    """Build the wide network of a folder with arbitrary weights; None if it has no name.

    Args:
        folder: what :func:`save` wrote.
        narrow: loaded from it; the wide network may have at most ``NARROWEST`` times as many numbers.
        first: build the network that was narrowed first, if it was more than once.

    Raises:
        CheckpointError: the folder is damaged, or the wide network too large for the narrow one.
        ModelError: this installation cannot build it.
    """
    content = read_network(folder)
    built = content["origin" if first else "model"]
    if built is None:
        return None
    shapes = content["earlier"][0].shapes if first else StoredPlan(plan_document(folder), folder / PLAN).shapes
    spec, kind = spec_from_json(built, folder / NETWORK)
    wide, small = sum(map(math.prod, shapes.values())), sum(x.numel() for x in distinct_tensors(narrow).values())
    if wide > NARROWEST * small + (1 << 20):
        raise CheckpointError(
            f"{folder / PLAN} is for a network of {wide:,} numbers, and {folder / WEIGHTS} holds {small:,}: they "
            f"are not of one network. {REMEDY}"
        )
    return build_within(spec, shapes, folder / NETWORK).to(kind)


def write_wide_graph(plan: Plan, folder: Path) -> None:
    """Write the graph of the wide network, for one that no name builds again."""
    from fxprune.passes.lowering import lower

    graph = graph_document(lower(plan.coupling.graph_module, plan.example_inputs))
    write_text(folder / WIDE_GRAPH, json.dumps(graph) + "\n")


def wide_from_graph(folder: Path, narrow: fx.GraphModule) -> fx.GraphModule:
    """Build the wide network from its graph, with the weights of its file.

    A tensor that is in no state dict is that of the narrow network, where it has kept its shape.

    Raises:
        CheckpointError: the files are damaged, or do not have all tensors.
    """
    weights, roles = read_tensors(folder / SNAPPED), read_graph(folder / WIDE_GRAPH)["tensors"]
    every = distinct_tensors(narrow) | weights  # more than the graph reads: of heads that only train, for example
    return build_graph(folder / WIDE_GRAPH, {name: tensor for name, tensor in every.items() if name in roles})
