"""Plans from files: whole, undamaged, and made for the network at hand, or refused."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.errors import PlanError
from fxprune.inputs import from_json, inputs_for
from fxprune.plans import FORMAT, VERSION, Plan, check_digest, check_shapes
from fxprune.propagate import couple


def load_plan(path: str | os.PathLike[str], model: torch.nn.Module) -> Plan:
    """Plan from a file that :meth:`Plan.save` wrote, checked against the model it is to be used on.

    Raises:
        PlanError: no such file, not a plan, half-written, of a later version, or made for another network.
    """
    value = _read(path)
    try:
        inputs = from_json(value["inputs"])
        clusters = {name: _integers(cluster) for name, cluster in value["clusters"].items()}
        tensors = {name: tuple(shape) for name, shape in value["tensors"].items()}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{path} is damaged: {error!r}. Make it again with `fxprune plan`.") from error
    check_shapes(tensors, model, str(path))
    try:
        coupling = couple(model, inputs_for(model, inputs), whole=value["whole"])
        check_digest(value["groups"], coupling, str(path))
        return Plan(coupling, clusters, value["method"], value["seed"])
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def _integers(values: Any) -> NDArray[np.int64]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError("clusters are lists of whole numbers")
    return np.array(values, dtype=np.int64)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from error
    except ValueError as error:
        raise PlanError(f"{path} is not a whole plan file: {error}. Make it again with `fxprune plan`.") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise PlanError(f"{path} is not an fxprune plan (no `format: {FORMAT}` in it).")
    if value.get("version") != VERSION:
        raise PlanError(f"{path} has plan version {value.get('version')}; this fxprune reads version {VERSION}.")
    kinds: dict[str, tuple[type, ...]] = {
        "method": (str,),
        "seed": (int,),
        "inputs": (list, dict),
        "tensors": (dict,),
        "clusters": (dict,),
        "whole": (bool,),
        "groups": (str,),
    }
    for name, kind in kinds.items():
        if not isinstance(value.get(name), kind):
            raise PlanError(f"{path} is damaged: `{name}` is missing or not a {kind[0].__name__}.")
    return value
