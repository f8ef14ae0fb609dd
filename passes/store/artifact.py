"""A narrow network on disk: its weights, its plan, and how to build its wide network.

::

    out/
    |-- weights.safetensors   every parameter and buffer, once
    |-- plan.json             see :meth:`fxprune.plans.Plan.save`: clusters, input shapes, shapes of the wide network
    |-- network.json          format, version, model, type and shape of every tensor, preprocessing of images
    `-- manifest.json         size and SHA-256 of the other three; written last

The graph is not stored: :func:`load` derives it from the wide network again, so that nothing on disk is code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.common.documents import check_fields, check_format, read_json
from fxprune.common.files import write_text
from fxprune.common.modules import map_tensors
from fxprune.errors import CheckpointError, OptionError, PlanError
from fxprune.models_zoo import FLOATS, ModelSpec, build_within, spec_from_json
from fxprune.models_zoo.data import Preprocessing, preprocessing_from
from fxprune.passes.rewrite import merged_by
from fxprune.plan_file import plan_from, read_plan
from fxprune.plans import Plan

from .folder import folder_aside
from .layout import NETWORK, NETWORK_FILES, PLAN, WEIGHTS
from .manifest import read_manifest
from .weights import check_kinds, distinct_tensors, kinds_of, read_tensors, write_tensors

FORMAT = "fxprune-network"
VERSION = 2
NARROWEST = 4096
_REMEDY = "Save the network again."


def save(
    narrow: nn.Module,
    directory: str | os.PathLike[str],
    *,
    model: ModelSpec | None = None,
    plan: Plan | None = None,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Save a narrow network: ``load(directory)`` computes what it computes, bit for bit.

    Args:
        narrow: the result of :func:`fxprune.narrow`, trained further or not.
        directory: made if it does not exist; a network that was saved in it is replaced, and no other file.
        model: how to build the wide network; without it, :func:`load` must be given the wide network.
        plan: the plan, if it is not ``narrow.meta["plan"]``.
        preprocessing: of the images, if it is not ``narrow.meta["preprocessing"]``.

    Raises:
        OptionError: ``narrow`` does not hold its plan, ``model.kwargs`` has an argument that cannot be saved, the
            directory holds a user's file under one of these names, or another run writes into it.
        OSError: the disk is full, or writing is not permitted.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
        >>> fxprune.save(narrow, "out")
        >>> torch.equal(fxprune.load("out", model=net)(images), narrow(images))
        True
    """
    plan, spec = _described(narrow, model, plan)
    with folder_aside(directory, files=NETWORK_FILES) as folder:
        _write(narrow, folder, spec, plan, preprocessing)


def write_network(narrow: nn.Module, folder: Path, *, model: ModelSpec | None = None, plan: Plan | None = None) -> None:
    """Write the files of :func:`save` without the manifest, into a folder that has or gets one."""
    plan, spec = _described(narrow, model, plan)
    _write(narrow, folder, spec, plan, None)


def _described(narrow: nn.Module, model: ModelSpec | None, plan: Plan | None) -> tuple[Plan, dict[str, Any] | None]:
    plan = plan or getattr(narrow, "meta", {}).get("plan")
    if not isinstance(plan, Plan):
        raise OptionError(
            f"this {type(narrow).__name__} does not know its plan: give save(..., plan=) the plan that made it."
        )
    # The captured graph has the dtype of the wide network, even if the narrow one was converted since.
    kind = next((p.dtype for p in plan.coupling.graph_module.parameters() if p.is_floating_point()), torch.float32)
    return plan, None if model is None else model.to_json(kind)


def _write(
    narrow: nn.Module, folder: Path, spec: dict[str, Any] | None, plan: Plan, preprocessing: Preprocessing | None
) -> None:
    preprocessing = preprocessing or getattr(narrow, "meta", {}).get("preprocessing")
    tensors = distinct_tensors(narrow)
    write_tensors(tensors, folder / WEIGHTS)
    plan.save(folder / PLAN)
    content = {"format": FORMAT, "version": VERSION, "model": spec, "tensors": kinds_of(tensors)}
    content["preprocessing"] = None if preprocessing is None else asdict(preprocessing)
    write_text(folder / NETWORK, json.dumps(content, indent=1) + "\n")


def load(directory: str | os.PathLike[str], *, model: nn.Module | None = None) -> fx.GraphModule:
    """Load a saved network, in eval mode on the CPU; ``.meta["plan"]`` is its plan.

    ``.meta["preprocessing"]`` describes the images that it expects, if this was saved.

    The wide network is built with arbitrary weights and narrowed by the plan; then every tensor is replaced by that of
    the file, including the constants that a state dict leaves out. It is built on the CPU rather than on the meta
    device, since the constructor of a model may compute numbers that its forward needs.

    Args:
        directory: the folder that :func:`save` wrote.
        model: the wide network, with any weights; built from the stored name if not given.

    Raises:
        CheckpointError: the directory is missing, unfinished, damaged, of a later version, or of another network.
        ModelError: this installation cannot build the wide network.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> fxprune.save(fxprune.narrow(fxprune.snap(net, plan), plan), "out")
        >>> fxprune.load("out", model=net).meta["plan"].widths
        {'0.weight': (8, 4)}
    """
    folder = Path(directory)
    read_manifest(folder).check(folder, NETWORK_FILES)
    content, plan = read_network(folder), _read_plan(folder)
    tensors = read_tensors(folder / WEIGHTS)
    check_kinds(content["tensors"], kinds_of(tensors), str(folder / WEIGHTS))
    _check_images(plan["inputs"], content["preprocessing"], folder)
    wide = build_wide(content, plan["tensors"], folder, tensors) if model is None else model
    try:
        # The weights are arbitrary, so unequal clusters do not matter.
        skeleton, _ = merged_by(plan_from(plan, wide, folder / PLAN), wide)
    except PlanError as error:
        raise CheckpointError(f"{folder} was saved from another wide network: {error}") from error
    _check_fit(distinct_tensors(skeleton), tensors, str(folder / WEIGHTS))
    network = map_tensors(skeleton, lambda name, _: tensors[name]).eval()
    assert isinstance(network, fx.GraphModule)
    del network.meta["max_change"]  # it is that of the arbitrary weights
    network.meta["preprocessing"] = content["preprocessing"]
    return network


def _check_images(inputs: Any, preprocessing: Preprocessing | None, folder: Path) -> None:
    """Raise CheckpointError if plan and preprocessing disagree about the size of images."""
    if preprocessing is None:
        return
    match inputs:
        case [[str(), [int(), *size]]] if tuple(size) == preprocessing.input_size:
            return
    raise CheckpointError(
        f"{folder / PLAN} is for inputs {str(inputs)[:80]}, and {folder / NETWORK} says that images have the size "
        f"{list(preprocessing.input_size)}. {_REMEDY}"
    )


def build_wide(
    content: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], folder: Path, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Build the wide network with arbitrary weights.

    Args:
        content: of network.json.
        shapes: of the wide network's tensors, from plan.json.
        folder: the folder of these files, for messages.
        tensors: of the narrow network; the wide one may have at most ``NARROWEST`` times as many numbers.

    Raises:
        CheckpointError: the folder does not say how to build it, or it is too large for these tensors.
        ModelError: this installation cannot build it.
    """
    if content["model"] is None:
        raise CheckpointError(f"{folder} does not say how its wide network is built: give load(..., model=) that one.")
    spec, kind = spec_from_json(content["model"], folder / NETWORK)
    wide, narrow = sum(map(math.prod, shapes.values())), sum(x.numel() for x in tensors.values())
    if wide > NARROWEST * narrow + (1 << 20):
        raise CheckpointError(
            f"{folder / PLAN} is for a network of {wide:,} numbers, and {folder / WEIGHTS} holds {narrow:,}: they "
            f"are not of one network. {_REMEDY}"
        )
    return build_within(spec, shapes, folder / NETWORK).to(kind)


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        return read_plan(folder / PLAN)
    except PlanError as error:
        raise CheckpointError(str(error)) from error


def read_network(folder: Path) -> dict[str, Any]:
    """Read network.json and check it field by field."""
    path = folder / NETWORK
    content: dict[str, Any] = read_json(path, "network description", CheckpointError, _REMEDY)
    check_format(content, FORMAT, VERSION, path, CheckpointError)
    maybe = (dict, type(None))
    kinds: dict[str, tuple[type, ...]] = {"model": maybe, "tensors": (dict,), "preprocessing": maybe}
    check_fields(content, kinds, path, CheckpointError)
    for name, kind in content["tensors"].items():
        if not isinstance(kind, str):
            raise CheckpointError(f"{path} is damaged: the tensor `{name}` has no type and shape. {_REMEDY}")
    if content["preprocessing"] is not None:
        content["preprocessing"] = preprocessing_from(content["preprocessing"], path)
    return content


def _check_fit(skeleton: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if names, shapes or types differ, except the float precision."""
    here, there = kinds_of(skeleton), kinds_of(tensors)
    for name in here.keys() & there.keys():
        if {skeleton[name].dtype, tensors[name].dtype} <= {*FLOATS.values()}:
            here[name] = there[name] if skeleton[name].shape == tensors[name].shape else here[name]
    check_kinds(here, there, where)
