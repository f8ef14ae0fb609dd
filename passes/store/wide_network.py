"""Build the wide network of a folder: by its name, or by its graph."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from fxprune.common.files import write_text
from fxprune.errors import CheckpointError
from fxprune.models_zoo import build_within, spec_from_json
from fxprune.plan_file import StoredPlan
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import layer_table, tensor_tables

from .graph import build_graph, graph_document, read_graph
from .layout import NETWORK, PLAN, SNAPPED, WEIGHTS, WIDE_GRAPH
from .network import REMEDY, plan_document, read_network
from .tensors import read_tensors
from .weights import distinct_tensors

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

    module = plan.coupling.graph_module
    graph = graph_document(lower(module, plan.example_inputs))
    stored, cuts = module.state_dict().keys(), dict[str, list[tuple[int, list[int]]]]()
    for partition in plan.partitions():
        if partition.parameter not in stored:
            cuts.setdefault(partition.parameter, []).append((partition.dim, partition.cluster.tolist()))
    graph["expanded"] = cuts
    write_text(folder / WIDE_GRAPH, json.dumps(graph) + "\n")


def wide_from_graph(folder: Path, narrow: fx.GraphModule) -> fx.GraphModule:
    """Build the wide network from its graph, with the weights of its file.

    A tensor that is in no state dict is that of the narrow network, with each row repeated for all of its cluster.

    Raises:
        CheckpointError: the files are damaged, or do not have all tensors.
    """
    weights, graph = read_tensors(folder / SNAPPED), read_graph(folder / WIDE_GRAPH)
    roles, small = graph["tensors"], distinct_tensors(narrow)
    try:
        wide = {name: _expanded(small[name], cuts) for name, cuts in graph["expanded"].items() if name not in weights}
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{folder / WIDE_GRAPH} is damaged: `expanded` does not fit. {REMEDY}") from error
    every = small | wide | weights  # more than the graph reads: of heads that only train, for example
    module = build_graph(folder / WIDE_GRAPH, {name: tensor for name, tensor in every.items() if name in roles})
    _put_in_order(module, [*narrow.meta["plan"].to_json()["tensors"]])
    return module


def _put_in_order(module: nn.Module, names: list[str]) -> None:
    """Let layers and tensors come as in the model, whose order names groups."""
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        words = name.split(".")
        for end in range(1, len(words) + 1):
            first.setdefault(".".join(words[:end]), at)
    for path, each in [*module.named_modules()]:
        for table in (layer_table(each), *tensor_tables(each)):
            held = [*table.items()]
            table.clear()
            table.update(sorted(held, key=lambda item: first.get(f"{path}.{item[0]}".lstrip("."), len(names))))


def _expanded(tensor: Tensor, cuts: list[tuple[int, list[int]]]) -> Tensor:
    for dim, cluster in cuts:
        tensor = tensor.index_select(dim, torch.tensor(cluster, device=tensor.device))
    return tensor
