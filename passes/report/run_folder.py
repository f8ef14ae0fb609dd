"""Load both networks from a folder of results: the narrow one and the snapped wide one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx, nn

from fxprune.common.inputs import tensors_of
from fxprune.passes.store import (
    NETWORK_FILES,
    ONNX,
    SNAPPED,
    build_wide,
    distinct_tensors,
    load,
    load_weights,
    read_manifest,
    read_network,
)
from fxprune.plan_file import plan_for
from fxprune.plans import Plan


@dataclass(frozen=True, eq=False)
class Run:
    """The networks and files that a main job left.

    Attributes:
        narrow: the stored narrow network, in eval mode on the CPU.
        snapped: the wide network with equal clusters, in eval mode on the CPU.
        plan: the plan for ``snapped``.
        example: [N, C, H, W] on the meta device.
        onnx: the exported file.
    """

    narrow: fx.GraphModule
    snapped: nn.Module
    plan: Plan
    example: Tensor
    onnx: Path


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Load the results of ``fxprune compress``.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        ModelError: this installation cannot build the wide network.
    """
    place = Path(folder)
    read_manifest(place).check(place, [*NETWORK_FILES, SNAPPED])
    narrow = load(place)
    shapes = narrow.meta["plan"].coupling.shapes
    snapped = build_wide(read_network(place), shapes, place, distinct_tensors(narrow)).eval()
    load_weights(snapped, place / SNAPPED)
    plan = plan_for(snapped, narrow.meta["plan"])
    return Run(narrow, snapped, plan, tensors_of(plan.coupling.example_inputs)[0], place / ONNX)
