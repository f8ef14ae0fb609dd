"""Find the parameters that a plan makes equal, and measure how far from equal they are."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fxprune.errors import OptionError
from fxprune.passes.merge import Clusters, doubled, largest_change, on_device, project, rows_equal
from fxprune.plans import Partition, Plan
from fxprune.pytorch.modules import statistics_of
from fxprune.pytorch.torch_private import layer_table, tensor_tables


class Deviation(NamedTuple):
    """The distance of the members of clusters from their mean; see :meth:`Csgd.deviation`."""

    largest: float
    median: float
    where: str = ""


@dataclass(frozen=True, eq=False)
class Tied:
    """A parameter, the axes of its tied rows, and its group's index in optimizer.param_groups.

    ``slots`` are the tables of modules and of parameters on the way from the model to it, with key and value.
    """

    name: str
    parameter: nn.Parameter
    partitions: tuple[Partition, ...]
    group: int
    slots: tuple[tuple[dict[str, Any], str, Any], ...] = ()

    def is_in_place(self) -> bool:
        """Tell whether the model still has it under its name."""
        return all(table.get(key) is value for table, key, value in self.slots)

    def is_in_one_of(self, tables: Collection[int]) -> bool:
        """Tell whether its layer still has it, and is one of those with these tables of parameters."""
        table, key, value = self.slots[-1]
        return table.get(key) is value and id(table) in tables

    def shares_rows(self) -> bool:
        """Tell whether any two positions share a cluster; otherwise there is nothing to average."""
        return any(len(partition.kept) < len(partition.cluster) for partition in self.partitions)


def tied_parameters(model: nn.Module, plan: Plan, optimizer: Optimizer) -> list[Tied]:
    """List the parameters that the plan makes equal; buffers are left to the snap.

    Raises:
        OptionError: the optimizer does not hold a parameter whose rows are not equal yet.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    axes: dict[nn.Parameter, list[Partition]] = {}
    for partition in plan.partitions():
        if partition.tied and partition.parameter in parameters:
            axes.setdefault(parameters[partition.parameter], []).append(partition)
    held = {p: index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    tied = []
    for parameter, cuts in axes.items():
        name = cuts[0].parameter
        if parameter in held:
            tied.append(Tied(name, parameter, tuple(cuts), held[parameter], _slots(model, name, parameter)))
        elif not all(rows_equal(parameter, on_device(cut, parameter.device)) for cut in cuts):
            raise OptionError(
                f"the plan merges rows of `{name}`, but the optimizer does not hold that parameter, so "
                f"its rows can never become equal. Add it to the optimizer, or leave its group out of the plan."
            )
    return tied


def _slots(model: nn.Module, name: str, parameter: nn.Parameter) -> tuple[tuple[dict[str, Any], str, Any], ...]:
    *path, key = name.split(".")
    slots, module = [], model
    for each in path:
        slots.append((layer_table(module), each, module := module.get_submodule(each)))
    return (*slots, (tensor_tables(module)[0], key, parameter))


class Slots:
    """The tables on the ways from a model to its parameters, each place once."""

    def __init__(self, tied: Sequence[Tied]) -> None:
        """Take those of some parameters."""
        slots = {(id(table), key): (table, key, value) for each in tied for table, key, value in each.slots}
        self._tables = [table for table, _, _ in slots.values()]
        self._keys = [key for _, key, _ in slots.values()]
        self._values = [value for _, _, value in slots.values()]

    def hold(self) -> bool:
        """Tell whether every place still has what it had."""
        return all(map(operator.is_, map(dict.get, self._tables, self._keys), self._values))


def clusters_of_fixed_buffers(model: nn.Module, plan: Plan) -> dict[str, list[Clusters]]:
    """Return the clusters of the tied buffers that no layer of PyTorch updates, by name."""
    updated = statistics_of(model)
    buffers = {name: b for name, b in model.named_buffers(remove_duplicate=False) if name not in updated}
    cuts: dict[str, list[Clusters]] = {}
    for each in plan.partitions():
        if each.tied and each.parameter in buffers:
            cuts.setdefault(each.parameter, []).append(on_device(each, buffers[each.parameter].device))
    return cuts


def deviation_of(tied: Sequence[Tied]) -> Deviation:
    """Return the largest and the median deviation over all tied axes."""
    names, values = [], []
    for each in tied:
        for partition in each.partitions:
            cuts = [on_device(partition, each.parameter.device)]
            value = doubled(each.parameter.detach())
            values.append(largest_change(value, project(value, cuts), partition.dim))
            names.append(f"{partition.parameter}:{partition.dim}")
    if not values:
        return Deviation(0.0, 0.0, "")
    every = torch.stack([value.cpu() for value in values]).numpy()
    worst = int(every.argmax())
    return Deviation(float(every[worst]), float(np.median(every)), names[worst])
