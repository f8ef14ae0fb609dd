"""Read plans from files, and check that they are undamaged and made for the given network."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.arguments.inputs import Inputs, from_json, inputs_for, is_shape
from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.coupling import Coupling
from fxprune.equivalence import configuration_of
from fxprune.errors import OptionError, PlanError
from fxprune.plans import FORMAT, VERSION, Plan, check_digest, check_shapes, digest
from fxprune.pytorch.modules import digest_of_tables, named_tensors
from fxprune.pytorch.network import network_of

KINDS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "seed": (int,),
    "inputs": (list, dict),
    "tensors": (dict,),
    "clusters": (dict,),
    "whole": (bool,),
    "groups": (str,),
}
_REMEDY = "Make it again with `fxprune plan`."


@dataclass(frozen=True, eq=False)
class StoredPlan:
    """The plan of a stored network, without the wide network that it is for."""

    content: Mapping[str, Any] = field(repr=False)
    path: str | os.PathLike[str]

    @functools.cached_property
    def clusters(self) -> dict[str, NDArray[np.int64]]:
        """Map each group name to the cluster of each of its channels, int64 [width]."""
        return {name: np.array(cluster, dtype=np.int64) for name, cluster in self.content["clusters"].items()}

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Map each group that the plan names to (channels before, channels after)."""
        return {name: (len(cluster), int(cluster.max(initial=-1)) + 1) for name, cluster in self.clusters.items()}

    @property
    def method(self) -> str:
        """Return the method by which the clusters were found."""
        return str(self.content["method"])

    @property
    def seed(self) -> int:
        """The seed of the search."""
        return int(self.content["seed"])

    @functools.cached_property
    def example_inputs(self) -> Inputs:
        """The example that the network was analysed on, on the meta device."""
        return from_json(self.content["inputs"])

    @property
    def shapes(self) -> Mapping[str, Sequence[int]]:
        """Map each tensor of the wide network to its sizes."""
        shapes: Mapping[str, Sequence[int]] = self.content["tensors"]
        return shapes

    def to_json(self) -> dict[str, Any]:
        """Return the content of the plan file."""
        return dict(self.content)


def history_of(network: torch.nn.Module) -> dict[str, Any]:
    """Return the plans that a narrow network knows, without the wide networks they hold."""
    plan, meta = plan_of(network), meta_of(network)
    if plan is None:
        return {}
    found: dict[str, Any] = {key: meta[key] for key in ("absorbed", "spec", "origin", "composed") if key in meta}
    return {**found, "plan": _stored(plan), "earlier": tuple(map(_stored, earlier_plans_of(network)))}


def _stored(plan: Plan | StoredPlan) -> StoredPlan:
    return plan if isinstance(plan, StoredPlan) else StoredPlan(plan.to_json(), "the plan of this network")


def meta_of(network: torch.nn.Module) -> dict[str, Any]:
    """Return what a narrow network knows of itself; nothing for any other network."""
    meta = getattr(network, "meta", None)
    return meta if isinstance(meta, dict) else {}


def plan_of(network: torch.nn.Module) -> Plan | StoredPlan | None:
    """Return the plan that a narrow network knows; None if it knows none."""
    return _known_plan(meta_of(network).get("plan"))


def outputs_of(network: torch.nn.Module) -> Sequence[str] | None:
    """Return the places of the outputs that a narrow network keeps; None: all."""
    plan = plan_of(network)
    found = plan.content.get("outputs") if isinstance(plan, StoredPlan) else plan and plan.coupling.outputs
    return found or None


def earlier_plans_of(network: torch.nn.Module) -> tuple[Plan | StoredPlan, ...]:
    """Return the plans that a narrow network knows from before its last one."""
    earlier = map(_known_plan, meta_of(network).get("earlier", ()))
    return tuple(plan for plan in earlier if plan is not None)


def _known_plan(value: Any) -> Plan | StoredPlan | None:
    """Read a plan that a pickled network holds as a JSON value."""
    if isinstance(value, dict):
        where = "the plan of this network"
        return StoredPlan(check_plan(value, where), where)
    return value if isinstance(value, (Plan, StoredPlan)) else None


def given_plan(model: torch.nn.Module, plan: Plan | StoredPlan) -> Plan:
    """Return a plan, a stored one on the model.

    Raises:
        OptionError: what was given is no plan.
        PlanError: ``model`` is another network.
    """
    if isinstance(plan, StoredPlan):
        return plan_from(plan.content, model, plan.path)
    if not isinstance(plan, Plan):
        raise OptionError(f"give a plan, `fxprune.plan(coupling)`, after the network, not {type(plan).__name__}.")
    return plan


def plan_from(value: Mapping[str, Any], model: torch.nn.Module, path: str | os.PathLike[str]) -> Plan:
    """Make a plan from the result of :func:`read_plan`.

    Raises:
        PlanError: it was made for another network.
    """
    inputs = from_json(value["inputs"])
    clusters = {name: np.array(cluster, dtype=np.int64) for name, cluster in value["clusters"].items()}
    check_shapes(value["tensors"], model, str(path))
    from fxprune.analysis import couple  # which to load a stored network does not need

    try:
        coupling = couple(model, inputs_for(model, inputs), whole=value["whole"], outputs=value.get("outputs"))
        check_digest(value["groups"], coupling, str(path))
        return Plan(coupling, clusters, value["method"], value["seed"])
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a plan file and check it field by field.

    Raises:
        PlanError: the file is missing, not a plan, incomplete, damaged, or of a later version.
    """
    return check_plan(read_json(path, "plan file", PlanError, _REMEDY), path)


def check_plan(value: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Check the JSON value of a plan field by field, and return it.

    Raises:
        PlanError: it is not a plan, or one that is incomplete, damaged, or of a later version.
    """
    check_format(value, FORMAT, VERSION, path, PlanError)
    optional: dict[str, tuple[type, ...]] = {"sha256": (str,), "outputs": (list,), "widths": (dict,)}
    given = {name: kinds for name, kinds in optional.items() if name in value}
    check_fields(value, KINDS | given, path, PlanError)
    if not all(isinstance(place, str) for place in value.get("outputs", [])) or value.get("outputs") == []:
        raise PlanError(f"{path} is damaged: `outputs` is no list of names. {_REMEDY}")
    try:
        from_json(value["inputs"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise PlanError(f"{path} is damaged: {error!r}. {_REMEDY}") from error
    for name, shape in value["tensors"].items():
        if not is_shape(shape):
            raise PlanError(f"{path} is damaged: the shape of `{name}` is no list of sizes. {_REMEDY}")
    for name, width in value.get("widths", {}).items():
        if type(width) is not int or width < 1:
            raise PlanError(f"{path}: `widths` gives `{name}` {str(width)[:40]!r}; it must be a number of channels.")
    longest = max(1 << 16, *(size for shape in value["tensors"].values() for size in shape), 0)
    for name, cluster in value["clusters"].items():
        # Check this before an array is made of them, or one of that length.
        if isinstance(cluster, list) and len(cluster) > longest:
            raise PlanError(f"{path} is damaged: no tensor has the {len(cluster)} channels of `{name[:80]}`. {_REMEDY}")
        if not isinstance(cluster, list) or not all(type(n) is int and 0 <= n < len(cluster) for n in cluster):
            raise PlanError(f"{path} is damaged: the clusters of `{name}` are no list of numbers from 0. {_REMEDY}")
    if value.get("sha256", digest(value)) != digest(value):
        raise PlanError(
            f"{path} is not as it was written: its `sha256` is that of another plan. Make it again with `fxprune "
            "plan`, or take out that line if you have edited the file."
        )
    checked: dict[str, Any] = value
    return checked


def plan_for(model: torch.nn.Module, plan: Plan | StoredPlan) -> Plan:
    """Return the plan if it was made on this model, else the same clusters on a new analysis.

    So it is where the model has kept something of another shape since, or another permutation of channels, and where a
    layer, an attribute or a hook is another one.

    Raises:
        PlanError: ``model`` is another network.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> import copy
        >>> twin = copy.deepcopy(net)
        >>> fxprune.plan_for(twin, plan) == plan
        True
    """
    model, plan = network_of(model), given_plan(model, plan)
    if plan.coupling.network is model and _is_as_analysed(model, plan.coupling):
        return plan
    from fxprune.analysis import couple

    check_shapes(plan.coupling.shapes, model, "the plan", plan.cut)
    before = plan.coupling
    example = before.example_inputs if before.given is None else before.given
    coupling = couple(model, inputs_for(model, example), whole=before.whole, outputs=before.outputs)
    check_digest(plan.coupling.digest, coupling, "the plan")
    return Plan(coupling, plan.clusters, plan.method, plan.seed)


def _is_as_analysed(model: torch.nn.Module, coupling: Coupling) -> bool:
    if {name: tuple(tensor.shape) for name, tensor in named_tensors(model)} != dict(coupling.shapes):
        return False
    picks = {name for name, facts in coupling.nodes.items() if facts.places is not None}
    if coupling.tables and coupling.tables != digest_of_tables(model, coupling.graph_module.graph, picks):
        return False
    return coupling.configuration == configuration_of(model)
