"""A plan divides the channels of each group into clusters; one channel per cluster is kept.

All passes (training, snap, merge, rewrite) read the same two things from a plan: :meth:`Plan.partitions`, which divides
an axis of a parameter into clusters of positions, and :attr:`Plan.kept`, one boolean per channel code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.arguments.inputs import Inputs, to_json
from fxprune.common.files import write_text
from fxprune.common.table import table
from fxprune.coupling import Axis, Coupling
from fxprune.equivalence import configuration_of
from fxprune.errors import PlanError
from fxprune.pytorch.modules import named_tensors, names_of_caches

FORMAT = "fxprune-plan"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Partition:
    """One axis of one parameter, divided into clusters of positions.

    Positions that never merge are clusters of one.

    Attributes:
        parameter: qualified name.
        dim: axis.
        tied: True: rows of a cluster become equal and one is kept; False: columns of a cluster are summed.
        cluster: int64 [length of the axis], the cluster of each position; clusters are numbered in the order of
            their kept positions, so cluster c becomes position c of the narrow axis.
        kept: int64 [number of clusters], ascending: the position that stays for each cluster.
    """

    parameter: str
    dim: int
    tied: bool
    cluster: NDArray[np.int64]
    kept: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Plan:
    """The clusters of every group of a network.

    Attributes:
        coupling: the analysis that the plan was made on.
        clusters: group name -> int64 [width], the cluster of each channel, numbered from 0 without gaps. A group
            that is missing keeps its width.
        method: how the clusters were found.
        seed: seed of the search.
    """

    coupling: Coupling = field(repr=False)
    clusters: Mapping[str, NDArray[np.int64]]
    method: str = "given"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the clusters against the coupling."""
        _check(self)

    def __deepcopy__(self, _: Any) -> Plan:
        """A plan does not change, so a copy of what holds it shares it."""
        return self

    @functools.cached_property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Map each group name to (channels before, channels after)."""
        return {
            name: (group.width, int(self.clusters[name].max()) + 1 if name in self.clusters else group.width)
            for name, group in self.coupling.groups.items()
        }

    @functools.cached_property
    def representative(self) -> NDArray[np.int64]:
        """Map each code to that of the first channel of its cluster, int64 [channels]."""
        stands = np.arange(self.coupling.channels)
        for name, cluster in self.clusters.items():
            group = self.coupling.groups[name]
            _, first = np.unique(cluster, return_index=True)
            stands[group.offset : group.offset + group.width] = group.offset + first[cluster]
        return stands

    @functools.cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Tell for each code whether it stays, bool [channels + 1]; the last entry is for code -1."""
        kept = self.representative == np.arange(self.coupling.channels)
        return np.append(kept, True)

    @functools.cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Map each code to the size of its cluster, int64 [channels + 1]; the last is for code -1."""
        count = np.bincount(self.representative, minlength=self.coupling.channels)
        return np.append(count[self.representative], 1)

    @functools.cached_property
    def cut(self) -> tuple[str, ...]:
        """The names of all parameters and buffers that the plan changes."""
        return tuple(dict.fromkeys(each.parameter for each in self._partitions))

    def partitions(self) -> Iterator[Partition]:
        """Yield every axis of every parameter that the plan changes."""
        return iter(self._partitions)

    @functools.cached_property
    def _partitions(self) -> list[Partition]:
        made = []
        axes: dict[tuple[str, int, bool], list[tuple[str, Axis]]] = {}
        for name in self.coupling.groups:
            before, after = self.widths[name]
            if before == after:
                continue
            group = self.coupling.groups[name]
            for tied, members in ((True, group.tied), (False, group.readers)):
                for axis in members:
                    axes.setdefault((axis.parameter, axis.dim, tied), []).append((name, axis))
        for (parameter, dim, tied), members_of_axis in axes.items():
            stands = np.arange(self.coupling.shapes[parameter][dim])
            for name, axis in members_of_axis:
                cluster = self.clusters[name]
                _, first = np.unique(cluster, return_index=True)
                stands[axis.positions] = axis.positions[first[cluster]]
            kept, cluster_of = np.unique(stands, return_inverse=True)
            made.append(Partition(parameter, dim, tied, cluster_of.astype(np.int64), kept.astype(np.int64)))
        return made

    def restrict(self, names: set[str]) -> Plan:
        """Return the plan with the clusters of the named groups only."""
        return Plan(self.coupling, {k: v for k, v in self.clusters.items() if k in names}, self.method, self.seed)

    def __eq__(self, other: object) -> bool:
        """Plans are equal if they divide the same network into the same clusters."""
        if not isinstance(other, Plan):
            return NotImplemented
        return (
            dict(self.coupling.shapes) == dict(other.coupling.shapes)
            and self.clusters.keys() == other.clusters.keys()
            and all(np.array_equal(self.clusters[name], other.clusters[name]) for name in self.clusters)
        )

    __hash__ = None  # type: ignore[assignment]

    def of_copy(self, model: torch.nn.Module) -> Plan:
        """Return the plan for a deep copy of its model, without a new analysis.

        The capture may depend on numbers, so whoever calls it must compare what is built with ``model``.
        """
        return replace(self, coupling=replace(self.coupling, network=model, configuration=configuration_of(model)))

    def __str__(self) -> str:
        rows = [
            (name, before, after, "yes" if self.coupling.groups[name].balanced else "no")
            for name, (before, after) in self.widths.items()
        ]
        text = table(("group", "before", "after", "balanced"), rows, right="before after")
        total = [sum(width[i] for width in self.widths.values()) for i in (0, 1)]
        return text + f"\n\n{self.method}, seed {self.seed}: {total[0]} channels become {total[1]}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON with its own hash, completely or not at all.

        Its ``widths`` are there to be read and edited; the hash leaves them out.
        """
        widths = {name: after for name, (_, after) in self.widths.items()}
        value = {"format": FORMAT, "version": VERSION, "widths": widths, **signed(self.to_json())}
        write_text(path, _laid_out(value))

    @property
    def example_inputs(self) -> Inputs:
        """The example that the network was analysed on, on the meta device."""
        return self.coupling.example_inputs

    def to_json(self) -> dict[str, Any]:
        """Make a JSON value: format, version, method, seed, input shapes, tensor shapes, clusters."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "seed": self.seed,
            "inputs": to_json(self.coupling.example_inputs),
            "tensors": {name: list(shape) for name, shape in self.coupling.shapes.items()},
            "whole": self.coupling.whole,
            "groups": self.coupling.digest,
            **({} if self.coupling.outputs is None else {"outputs": list(self.coupling.outputs)}),
            "clusters": {name: cluster.tolist() for name, cluster in self.clusters.items()},
        }


def signed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Add its own hash to the content of a plan file."""
    return {**value, "sha256": digest(value)}


def digest(value: Mapping[str, Any]) -> str:
    """Hash the content of a plan file, without its own hash and the widths, whatever its layout."""
    said = {name: each for name, each in value.items() if name not in ("sha256", "widths")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _laid_out(value: Mapping[str, Any]) -> str:
    """Write JSON with a line for each group and each tensor."""
    lines = []
    for name, each in value.items():
        if isinstance(each, dict) and each:
            inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in each.items())
            lines.append(f" {json.dumps(name)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(each)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def check_digest(expected: str, coupling: Coupling, where: str) -> None:
    """Raise PlanError unless a coupling has the groups with this digest."""
    if expected != coupling.digest:
        raise PlanError(
            f"{where} was made where the same tensors form other groups: the code of the network or the version of "
            "fxprune differs, or buffers hold other values. Make a new plan for this model."
        )


def check_shapes(tensors: Mapping[str, Any], model: torch.nn.Module, where: str, cut: Collection[str] = ()) -> None:
    """Raise PlanError, naming the first tensors of a model that differ from ``tensors``.

    A call may keep what it computes in buffers that no state dict holds, in any shape: these must only agree if they
    are ``cut``.
    """
    kept = names_of_caches(model).difference(cut)
    here = {name: tuple(tensor.shape) for name, tensor in named_tensors(model) if name not in kept}
    there = {name: tuple(shape) for name, shape in tensors.items() if name not in kept}
    differ = [
        f"{name}: {there.get(name, 'absent')} in the plan, {here.get(name, 'absent')} in the model"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    resized = [name for name in here if name in buffers and name in there and there[name] != here[name]]
    if differ and len(resized) == len(differ):
        raise PlanError(
            f"{where} knows other sizes of buffers than the model has now, since a call has made them anew: "
            f"{'; '.join(differ[:3])}. Couple after such a call, or register them with `persistent=False`."
        )
    if differ:
        raise PlanError(
            f"{where} was made for another network: {len(differ)} of {len({*there, *here})} tensors differ, first "
            + "; ".join(differ[:3])
            + ". Make a new plan for this model: `fxprune plan MODEL --data NAME` builds it as `compress` does."
        )


def _check(plan: Plan) -> None:
    groups = plan.coupling.groups
    for name, cluster in plan.clusters.items():
        if name not in groups:
            raise PlanError(f"the plan names a group `{name}` that this network does not have.")
        group = groups[name]
        if not isinstance(cluster, np.ndarray) or cluster.dtype.kind not in "iu":
            raise PlanError(f"the clusters of group `{name}` are no array of whole numbers, one for each channel.")
        if cluster.shape != (group.width,):
            raise PlanError(f"group `{name}` has {group.width} channels; the plan gives clusters for {cluster.shape}.")
        inside = cluster.size and cluster.min() >= 0 and cluster.max() < cluster.size
        count = np.bincount(cluster) if inside else np.zeros(1, np.int64)
        if not count.all():
            raise PlanError(f"the clusters of group `{name}` are not numbered from 0 without gaps.")
        if group.balanced and (count != count[0]).any():
            raise PlanError(
                f"group `{name}` feeds a normalisation or a dot product and needs clusters of one size; "
                f"the plan has sizes {count.min()} to {count.max()}."
            )
    for domain in plan.coupling.domains:
        sizes: dict[int, str] = {}
        for group in domain:
            size = int((plan.clusters[group.name] == 0).sum()) if group.name in plan.clusters else 1
            sizes.setdefault(size, group.name)
        if len(sizes) > 1:
            given = ", ".join(f"`{name}` of {size}" for size, name in sizes.items())
            raise PlanError(f"groups under one normalisation need clusters of one common size; the plan has {given}.")
