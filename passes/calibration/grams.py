"""Gram matrices of channels tell how alike the activations are that layers read.

For a group of n channels, G[i, j] is the mean of x_i x_j over all inputs and positions, where x_i is what a reader gets
from channel i. Everything that clustering needs follows from G: the distance of two channels, and what is lost if a
cluster is replaced by its mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import inputs_for
from fxprune.common.progress import steps
from fxprune.coupling import Coupling, Group
from fxprune.errors import ModelError
from fxprune.node_facts import Codes, Shape
from fxprune.passes.merge import captured_with
from fxprune.pytorch.modules import device_of, named_tensors
from fxprune.pytorch.torch_private import pytree

from .execution import Execution
from .inputs import MOST_INPUTS, calibration

Gram = NDArray[np.float64]
# Positions of a batch that enter a Gram matrix; batches have at most 32 inputs.
_POSITIONS = 2048
# Principal axes that are kept: the rest of a few hundred channels' activations is noise, and clustering costs as many.
_MOST_AXES = 256


@dataclass(frozen=True, eq=False)
class Reading:
    """One place where channels of a group are read.

    Attributes:
        node: that reads.
        operand: that it reads from.
        dim: axis of the operand.
        positions: int64 [width, occurrences], of the group's channels on this axis.
    """

    node: fx.Node
    operand: fx.Node
    dim: int
    positions: Codes


def channel_grams(model: nn.Module, coupling: Coupling, batches: Iterable[Any]) -> dict[str, Gram]:
    """Map each group to the Gram matrix [width, width] of what its readers read, centred.

    Each place where channels are read counts the same: its matrix is scaled to a mean of 1 on the diagonal.

    Raises:
        DataError: inputs that are not usable.
        ModelError: an activation is a NaN or an infinity.
    """
    module = captured_with(coupling, model).eval()
    inputs = calibration(batches, coupling, held=0.0, most=MOST_INPUTS)
    device = device_of(model)
    moved = [
        inputs_for(module, pytree.tree_map_only(Tensor, lambda x: x.to(device), batch)) for batch in inputs.batches
    ]
    readings: dict[fx.Node, list[tuple[Group, Reading]]] = {}
    for group in coupling.groups.values():
        for reading in readings_of(group, coupling, module):
            readings.setdefault(reading.node, []).append((group, reading))
    sums: dict[tuple[str, str, int], _Sum] = {}
    execution = Execution(module, moved)
    generator = torch.Generator().manual_seed(0)
    for node in steps(execution.nodes, "activations of operation"):
        for batch in range(len(moved)):
            for index, (group, reading) in enumerate(readings.get(node, ())):
                value = execution.value(reading.operand, batch)
                if not coupling.nodes[reading.operand.name].value.fits(value) or not value.is_floating_point():
                    continue  # the batch is part of an axis with channels
                key = group.name, node.name, index
                sums.setdefault(key, _Sum(group.width)).add(_channels(value, reading, generator), group)
            execution.compute(node, batch)
        execution.free(node)
    grams: dict[str, Gram] = {}
    for (name, *_), total in sums.items():
        gram = total.centred()
        scale = np.trace(gram) / len(gram)
        if scale > 0.0:
            grams[name] = grams.get(name, 0.0) + gram / scale
    return grams


def channel_points(gram: Gram) -> NDArray[np.float64]:
    """Return points whose inner products are a Gram matrix: float64 [width, rank]."""
    values, vectors = np.linalg.eigh(gram)
    rank = (values > values[-1] * 1e-12) & (np.arange(len(values)) >= len(values) - _MOST_AXES)
    points: NDArray[np.float64] = vectors[:, rank] * np.sqrt(values[rank])
    return points


def readings_of(group: Group, coupling: Coupling, module: fx.GraphModule) -> list[Reading]:
    """List where a weight's columns or a product of activations read channels of a group.

    If they are read nowhere, what their first layer puts out stands for it.
    """
    readers = {axis.parameter for axis in group.readers}
    found: list[Reading] = []
    first: list[Reading] = []
    for node in module.graph.nodes:
        facts = coupling.nodes.get(node.name)
        if facts is None:
            continue
        multiplied = any(
            ((codes >= group.offset) & (codes < group.offset + group.width)).any() for codes, _ in facts.products
        )
        reads = multiplied or not readers.isdisjoint(_weights_of(node, module))
        for operand in node.all_input_nodes:
            at = _places(operand, group, coupling)
            if at is None:
                continue
            reading = Reading(node, operand, *at)
            if reads and operand.op != "get_attr":
                found.append(reading)
            elif not first and operand.op != "get_attr":
                first.append(reading)
    return found or first


def _weights_of(node: fx.Node, module: fx.GraphModule) -> set[str]:
    if node.op == "call_module":
        return {f"{node.target}.{name}" for name, _ in named_tensors(module.get_submodule(str(node.target)))}
    return {str(operand.target) for operand in _attributes(node)}


def _attributes(node: fx.Node) -> Iterable[fx.Node]:
    """Yield the weights among the operands, also behind calls that only move them."""
    for operand in node.all_input_nodes:
        seen = operand
        while seen.op != "get_attr" and len(seen.all_input_nodes) == 1:
            seen = seen.all_input_nodes[0]
        if seen.op == "get_attr":
            yield seen


def _places(node: fx.Node, group: Group, coupling: Coupling) -> tuple[int, Codes] | None:
    """Return the axis of a value that carries a group, and the positions of its channels."""
    facts = coupling.nodes.get(node.name)
    if facts is None or not isinstance(facts.value, Shape):
        return None
    for dim, codes in enumerate(facts.value.axes):
        if codes is None:
            continue
        here = np.flatnonzero((codes >= group.offset) & (codes < group.offset + group.width))
        count, rest = divmod(len(here), group.width)
        if count and not rest:
            order = np.argsort(codes[here], kind="stable")
            return dim, here[order].reshape(group.width, count)
    return None


def _channels(value: Tensor, reading: Reading, generator: torch.Generator) -> Tensor:
    """Return some positions of each channel: [width, samples]."""
    rows = value.movedim(reading.dim, 0)
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] > _POSITIONS:
        rows = rows[:, torch.randint(rows.shape[1], (_POSITIONS,), generator=generator).to(rows.device)]
    positions = torch.as_tensor(reading.positions, device=rows.device)
    return rows[positions].reshape(len(positions), -1)


class _Sum:
    """The sum of x and of x x^T over samples."""

    def __init__(self, width: int) -> None:
        self.gram, self.mean, self.count = np.zeros((width, width)), np.zeros(width), 0

    def add(self, x: Tensor, group: Group) -> None:
        if not torch.isfinite(x).all():
            raise ModelError(f"an activation of group `{group.name}` is a NaN or an infinity on these inputs.")
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.gram += (x @ x.t()).double().cpu().numpy()
        self.mean += x.sum(1).double().cpu().numpy()
        self.count += x.shape[1]

    def centred(self) -> Gram:
        mean = self.mean / self.count
        gram: Gram = self.gram / self.count - np.outer(mean, mean)
        return gram
