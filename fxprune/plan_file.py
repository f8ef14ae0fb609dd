"""Read plans from files, and check that they are undamaged and made for the given network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fxprune.analysis import couple
from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.common.inputs import from_json, inputs_for, is_shape
from fxprune.errors import PlanError
from fxprune.plans import FORMAT, VERSION, Plan, check_digest, check_shapes, digest

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


def load_plan(path: str | os.PathLike[str], model: torch.nn.Module) -> Plan:
    """Load a plan that :meth:`Plan.save` wrote, and check that it was made for this model.

    Raises:
        PlanError: the file is missing, not a plan, incomplete, of a later version, or made for another network.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> fxprune.plan(fxprune.couple(net, images), keep=0.5).save("plan.json")
        >>> fxprune.load_plan("plan.json", net).widths
        {'0.weight': (8, 4)}
    """
    return plan_from(read_plan(path), model, path)


def plan_from(value: Mapping[str, Any], model: torch.nn.Module, path: str | os.PathLike[str]) -> Plan:
    """Make a plan from the result of :func:`read_plan`.

    Raises:
        PlanError: it was made for another network, or has impossible inputs or clusters.
    """
    try:
        inputs = from_json(value["inputs"])
        clusters = {name: np.array(cluster, dtype=np.int64) for name, cluster in value["clusters"].items()}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise PlanError(f"{path} is damaged: {error!r}. {_REMEDY}") from error
    check_shapes(value["tensors"], model, str(path))
    try:
        coupling = couple(model, inputs_for(model, inputs), whole=value["whole"])
        check_digest(value["groups"], coupling, str(path))
        return Plan(coupling, clusters, value["method"], value["seed"])
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a plan file and check it field by field.

    Raises:
        PlanError: the file is missing, not a plan, incomplete, damaged, or of a later version.
    """
    value: dict[str, Any] = read_json(path, "plan file", PlanError, _REMEDY)
    check_format(value, FORMAT, VERSION, path, PlanError)
    check_fields(value, KINDS | ({"sha256": (str,)} if "sha256" in value else {}), path, PlanError)
    if value.get("sha256", digest(value)) != digest(value):
        raise PlanError(
            f"{path} is not as it was written: its `sha256` is that of another plan. Make it again with `fxprune "
            "plan`, or take out that line if you have edited the file."
        )
    for name, shape in value["tensors"].items():
        if not is_shape(shape):
            raise PlanError(f"{path} is damaged: the shape of `{name}` is no list of sizes. {_REMEDY}")
    for name, cluster in value["clusters"].items():
        # Check this before an array is made of them, or one of that length.
        if not isinstance(cluster, list) or not all(type(n) is int and 0 <= n < len(cluster) for n in cluster):
            raise PlanError(f"{path} is damaged: the clusters of `{name}` are no list of numbers from 0. {_REMEDY}")
    return value


def plan_for(model: torch.nn.Module, plan: Plan) -> Plan:
    """Return the plan if it was made on this model, else the same clusters on a new analysis.

    Raises:
        PlanError: ``model`` is another network.

    Example:
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
    if plan.coupling.model() is model:
        return plan
    check_shapes(plan.coupling.shapes, model, "the plan")
    coupling = couple(model, inputs_for(model, plan.coupling.example_inputs), whole=plan.coupling.whole)
    check_digest(plan.coupling.digest, coupling, "the plan")
    return Plan(coupling, plan.clusters, plan.method, plan.seed)
