"""A narrow network on disk: its weights, the plan that made it, and which wide network to apply the plan to.

::

    out/
    |-- weights.safetensors   every parameter and buffer, once
    |-- plan.json             see :meth:`fxprune.plans.Plan.save`: clusters, input shapes, shapes of the wide network
    `-- network.json          format, version, model, size and SHA-256 of the other two; written last

The graph is not stored: it is derived from the wide network again, so that nothing on disk is code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import CheckpointError, OptionError, PlanError
from fxprune.files import written_aside
from fxprune.meta import copy_with
from fxprune.plan_file import load_plan
from fxprune.plans import Plan

from .narrow import narrow as apply_plan
from .weights import check_names, distinct_tensors, read_tensors, write_tensors

FORMAT = "fxprune-network"
VERSION = 1
WEIGHTS, PLAN, NETWORK = "weights.safetensors", "plan.json", "network.json"


@dataclass(frozen=True)
class ModelSpec:
    """How to build the wide network again: ``create_model(name, **kwargs)`` of ``fxprune.models_zoo.registry``.

    Attributes:
        name: model name.
        kwargs: its arguments, such as ``num_classes``; whatever JSON can hold. Published weights are never fetched.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Wide network with arbitrary weights; the random state of the process stays as it is."""
        from fxprune.models_zoo.registry import create_model

        with torch.random.fork_rng(devices=[]):
            model: nn.Module = create_model(self.name, **{**self.kwargs, "pretrained": False})
        return model


def save(
    narrow: nn.Module, directory: str | os.PathLike[str], *, model: ModelSpec | None = None, plan: Plan | None = None
) -> None:
    """``load(directory)`` computes what ``narrow`` computes, bit for bit.

    Args:
        narrow: what :func:`fxprune.narrow` made, trained further or not.
        directory: made if it does not exist; a network in it is replaced.
        model: how to build the wide network; without it, :func:`load` must be given the wide network.
        plan: the plan, if it is not ``narrow.meta["plan"]``.

    Raises:
        OptionError: ``narrow`` does not know its plan, or ``model.kwargs`` do not fit into JSON.
    """
    plan = plan or getattr(narrow, "meta", {}).get("plan")
    if not isinstance(plan, Plan):
        raise OptionError(
            f"this {type(narrow).__name__} does not know its plan: give save(..., plan=) the plan that made it."
        )
    spec = None if model is None else _to_json(model, plan)
    folder = Path(directory)
    with ExitStack() as stack:  # renamed in reverse: a directory without network.json is unfinished
        manifest, plan_file, weights = (
            stack.enter_context(written_aside(folder / f)) for f in (NETWORK, PLAN, WEIGHTS)
        )
        write_tensors(distinct_tensors(narrow), weights)
        plan.save(plan_file)
        files = {WEIGHTS: _fingerprint(weights), PLAN: _fingerprint(plan_file)}
        content = {"format": FORMAT, "version": VERSION, "model": spec, "files": files}
        manifest.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(directory: str | os.PathLike[str], *, model: nn.Module | None = None) -> fx.GraphModule:
    """The network that was saved, in eval mode on the CPU; ``.meta["plan"]`` is its plan.

    The wide network is built with throw-away weights and narrowed by the plan, then every tensor is replaced by the
    file's: also the constants that a state dict leaves out. It is built on the CPU rather than on the meta device,
    since a model may compute numbers in its constructor that its forward needs.

    Args:
        directory: what :func:`save` wrote.
        model: the wide network, with any weights; built from the stored name if not given.

    Raises:
        CheckpointError: the directory is missing, unfinished, damaged, of a later version, or of another network.
        ModelError: the wide network cannot be built by this installation.
    """
    folder = Path(directory)
    content = _read(folder)
    for name, expected in content["files"].items():
        _check_file(folder / name, expected)
    wide = model if model is not None else _build(content["model"], folder)
    try:
        skeleton = apply_plan(wide, load_plan(folder / PLAN, wide))
    except PlanError as error:
        raise CheckpointError(f"{folder} was saved from another wide network: {error}") from error
    tensors = read_tensors(folder / WEIGHTS)
    check_names(distinct_tensors(skeleton), tensors, str(folder / WEIGHTS))
    network = copy_with(skeleton, lambda name, _: tensors[name]).eval()
    assert isinstance(network, fx.GraphModule)
    return network


def _read(folder: Path) -> dict[str, Any]:
    """Content of network.json, checked field by field."""
    path = folder / NETWORK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) if folder.is_dir() else "no directory"
        raise CheckpointError(
            f"{folder} is not a saved network, or one that was never finished: there is no {NETWORK} in it "
            f"({found or 'it is empty'}). Save the network again."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not whole JSON: {error}. Save the network again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe a saved network (no `format: {FORMAT}` in it).")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')}; this fxprune reads version {VERSION}. Update fxprune."
        )
    files = content.get("files")
    if not isinstance(files, dict) or files.keys() != {WEIGHTS, PLAN} or "model" not in content:
        raise CheckpointError(
            f"{path} is damaged: `model` or the {WEIGHTS} and {PLAN} of `files` are missing. Save again."
        )
    return content


def _to_json(model: ModelSpec, plan: Plan) -> dict[str, Any]:
    # The plan's example inputs have the type that the wide network had, whatever the narrow one was turned into.
    kind = next((p.dtype for p in plan.coupling.graph_module.parameters() if p.is_floating_point()), torch.float32)
    spec = {
        "factory": "zoo",
        "name": model.name,
        "kwargs": dict(model.kwargs),
        "dtype": str(kind).removeprefix("torch."),
    }
    try:
        json.dumps(spec)
    except TypeError as error:
        raise OptionError(f"the arguments of `{model.name}` do not fit into JSON: {error}.") from error
    return spec


def _build(value: Any, folder: Path) -> nn.Module:
    match value:
        case None:
            raise CheckpointError(
                f"{folder} does not say how its wide network is built: give load(..., model=) that one."
            )
        case {"factory": "zoo", "name": str(name), "kwargs": dict(kwargs), "dtype": str(kind)} if hasattr(torch, kind):
            return ModelSpec(name, kwargs).build().to(getattr(torch, kind))
    raise CheckpointError(f"{folder / NETWORK} is damaged: `model` is {value!r}. Save the network again.")


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_file(path: Path, expected: Any) -> None:
    try:
        found = _fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}. Save the network again.") from error
    if found != expected:
        size = expected.get("bytes") if isinstance(expected, dict) else None
        raise CheckpointError(
            f"{path} is not the file that was saved: {found['bytes']} bytes of {size}, SHA-256 {found['sha256'][:12]}. "
            "Copy it again, or save the network again."
        )
