"""Load both networks from a folder of results: the narrow one and the snapped wide one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.errors import CaptureError, CheckpointError, ModelError, PlanError
from fxprune.passes.store import (
    PLAN,
    SNAPPED,
    WIDE_GRAPH,
    build_wide,
    load,
    load_weights,
    read_manifest,
    wide_from_graph,
)
from fxprune.plan_file import StoredPlan, plan_for
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors

BY_NO_NAME = "it was given as a module, which no name builds again"


@dataclass(frozen=True, eq=False)
class WideNetwork:
    """The wide network of a folder, with equal clusters."""

    snapped: nn.Module
    plan: Plan


@dataclass(frozen=True, eq=False)
class Run:
    """The networks that a main job left.

    Attributes:
        narrow: the stored narrow network, in eval mode on the CPU.
        wide: the wide network; None if it is not at hand.
        absent: why it is not.
        example: arguments of both networks.
    """

    narrow: fx.GraphModule
    wide: WideNetwork | None
    absent: str
    example: Inputs


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Load the networks of a folder that ``fxprune.save`` or a job wrote.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        ModelError: this installation cannot build the wide network.
    """
    path = Path(folder)
    narrow = load(path)
    example: Inputs = narrow.meta["example_inputs"]
    manifest = read_manifest(path)
    if SNAPPED not in manifest.files:
        return Run(narrow, None, f"there is no {SNAPPED} in the folder", example)
    manifest.check(path, [SNAPPED])
    snapped = build_wide(path, narrow)
    if snapped is not None:
        load_weights(snapped.eval(), path / SNAPPED)
        return Run(narrow, WideNetwork(snapped, plan_for(snapped, narrow.meta["plan"])), "", example)
    if WIDE_GRAPH not in manifest.files:
        return Run(narrow, None, BY_NO_NAME, example)
    manifest.check(path, [WIDE_GRAPH])
    snapped = wide_from_graph(path, narrow)
    content = narrow.meta["plan"].to_json()
    read = dict(named_tensors(snapped)).keys()  # of a layer that is never called, the graph has no tensors
    content["tensors"] = {name: shape for name, shape in content["tensors"].items() if name in read}
    try:
        return Run(narrow, WideNetwork(snapped, plan_for(snapped, StoredPlan(content, path / PLAN))), "", example)
    except PlanError as error:  # the graph holds what a module computes, and not always its groups
        return Run(narrow, None, str(error).rstrip("."), example)
    except (CaptureError, ModelError) as error:
        raise CheckpointError(f"{path / WIDE_GRAPH} is damaged: it does not run. {error}") from error


def wide_of(run: Run, folder: str | os.PathLike[str]) -> nn.Module:
    """Return the wide network.

    Raises:
        CheckpointError: it is not at hand.
    """
    if run.wide is None:
        raise CheckpointError(f"the wide network of {os.fspath(folder)} is not at hand: {run.absent}.")
    return run.wide.snapped
