"""A folder of results is enough to have both networks again, the narrow one and the snapped wide one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx, nn

from fxprune.inputs import tensors_of
from fxprune.plans import Plan

from .artifact import ModelSpec, load
from .layout import NETWORK, ONNX, SNAPPED
from .weights import load_weights


@dataclass(frozen=True, eq=False)
class Reopened:
    """What a run of the main job left.

    Attributes:
        narrow: as it was stored, in eval mode on the CPU.
        snapped: the wide network with equal clusters, in eval mode on the CPU.
        plan: on ``snapped``.
        example: [N, C, H, W] on the meta device.
        onnx: the exported file.
    """

    narrow: fx.GraphModule
    snapped: nn.Module
    plan: Plan
    example: Tensor
    onnx: Path


def reopen(folder: str | os.PathLike[str]) -> Reopened:
    """Read what ``fxprune compress`` wrote.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        ModelError: the wide network cannot be built by this installation.
    """
    place = Path(folder)
    narrow = load(place)  # has checked network.json
    spec = json.loads((place / NETWORK).read_text(encoding="utf-8"))["model"]
    snapped = ModelSpec(spec["name"], spec["kwargs"]).build().eval()
    load_weights(snapped, place / SNAPPED)
    plan = narrow.meta["plan"].on(snapped)
    return Reopened(narrow, snapped, plan, tensors_of(plan.coupling.example_inputs)[0], place / ONNX)
