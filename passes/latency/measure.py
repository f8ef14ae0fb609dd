"""Measure the time of a network and of throw-away narrow copies of it, in alternation."""

from __future__ import annotations

import platform
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.batches import admitted
from fxprune.arguments.inputs import Inputs, run_on, tensors_of
from fxprune.common.progress import phase, steps
from fxprune.common.versions import processor, versions
from fxprune.costs import alternated, cost
from fxprune.coupling import Coupling
from fxprune.errors import CustomGradientWarning, OptionError, UnequalClustersWarning, first_line
from fxprune.latencies import LatencyTable, macs_of_one
from fxprune.passes.onnx import export_onnx, onnx_runner
from fxprune.passes.options import Target, options_of
from fxprune.passes.planning import as_share, narrowest, plan, widths_near
from fxprune.passes.rewrite import narrow
from fxprune.passes.verify import batched_inputs, random_batch
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import is_compiler_error, pytree
from fxprune.selection import select

# Shares of the MACs that a table without a goal has.
GRID = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
# Networks that are timed in search of a goal.
_MOST_TRIED = 7


def latency_table(
    coupling: Coupling,
    goal: float | None = None,
    *,
    runtime: str | None = None,
    batch: int | None = None,
    round_to: int = 1,
    only: Sequence[str] | None = None,
    freeze: Sequence[str] | None = None,
    internal_only: bool = False,
) -> LatencyTable:
    """Time the network and narrow copies of it, on this machine, with PyTorch's threads.

    Args:
        coupling: the analysis; weights play no part.
        goal: share of the time; copies are made until one takes it within 3 %. None: copies from 3/4 to 1/10 of the
            MACs, for a table that is carried elsewhere.
        runtime: ``onnxruntime`` (None), ``eager`` or ``compiled``.
        batch: samples at once; None: 1, or the fewest that the network takes.
        round_to: as of :func:`fxprune.plan`, like what follows.
        only: patterns; groups that match none of them keep their widths.
        freeze: patterns; groups that match one of them keep their widths.
        internal_only: only groups inside a residual branch become narrower.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: there is no such runtime, the network takes no such ``batch``, no narrow copy is as fast as the
            goal, or nothing here compiles for ``compiled``.
        ExportError: the network cannot be exported to ONNX.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> coupling = fxprune.couple(net, torch.randn(2, 3, 16, 16))
        >>> table = fxprune.latency_table(coupling, 1.0, runtime="eager")
        >>> table.runtime, table.batch, table.points
        ('eager', 1, ((1.0, 1.0),))
        >>> table.save("times.json")
    """
    runtime = runtime or "onnxruntime"
    batch = admitted([1], coupling.batch)[0] if batch is None else batch
    options_of(Target)["runtime"].check(runtime)
    if batch < 1:
        raise OptionError(f"`batch` must be 1 or more, not {batch}.")
    if not coupling.batch.holds(batch):
        raise OptionError(f"the batch of the network is {coupling.batch}, since {coupling.batch.why}; not {batch}.")
    goal = None if goal is None else as_share("goal", goal)
    phase("time", "the network and narrow copies")
    chosen = select(coupling, only=only, freeze=freeze, internal_only=internal_only)
    smallest = plan(coupling, widths=narrowest(coupling, round_to, chosen), method="even")
    least = _share(smallest)

    def plan_at(share: float) -> Plan:
        if share <= least:
            return smallest
        tried = plan(coupling, widths=widths_near(coupling, share, round_to, chosen), method="even")
        return smallest if _share(tried) == 1.0 > share else tried  # no narrower widths are near it

    with tempfile.TemporaryDirectory() as folder:
        stopwatch = _WideTimer(coupling, runtime, batch, Path(folder))
        table = LatencyTable(
            network=coupling.digest,
            macs=macs_of_one(coupling),
            groups=tuple(sorted(chosen)),
            round_to=round_to,
            runtime=runtime,
            batch=batch,
            threads=torch.get_num_threads(),
            machine=f"{processor()}, {platform.system()}",
            versions=versions(),
            wide_ms=0.0,
        )
        if goal is None:
            shares = sorted({max(least, each) for each in GRID}, reverse=True)
            for share in steps(shares, "narrow copy"):
                table = stopwatch.added(table, plan_at(share))
        else:
            for _ in steps(range(_MOST_TRIED), "narrow copy"):
                tried = plan_at(_next(table, goal))
                if _share(tried) in dict(table.points):
                    break  # there is nothing in between
                table = stopwatch.added(table, tried)
                if table.nearest(goal) is not None:
                    break
        if not table.wide_ms:  # nothing narrower was asked for
            table = replace(table, wide_ms=stopwatch.time(plan_at(1.0))[0])
    return replace(table, complete=table.points[-1][0] <= least)


def time_of(plan: Plan, *, runtime: str = "onnxruntime", batch: int = 1) -> tuple[float, float]:
    """Time the network of a plan in ms, and the ratio of the narrow one's time to it."""
    with tempfile.TemporaryDirectory() as folder:
        return _WideTimer(plan.coupling, runtime, batch, Path(folder)).time(plan)


def _next(table: LatencyTable, goal: float) -> float:
    """Return the share of the MACs to try next: between two points, or beyond the last."""
    (macs, time), before = table.points[-1], table.points[-2:-1]
    if time <= goal:
        return table.macs_for(goal)
    if not before:
        return goal
    slope = (before[0][1] - time) / (before[0][0] - macs)
    return max(macs - (time - goal) / slope, macs / 4) if slope > 0 else macs / 2


def _share(plan: Plan) -> float:
    return cost(plan).macs / cost(plan.coupling).macs


class _WideTimer:
    """The wide network as it runs, to time narrow ones beside."""

    def __init__(self, coupling: Coupling, runtime: str, batch: int, folder: Path) -> None:
        self.runtime, self.folder, self.network = runtime, folder, coupling.network
        device = next((tensor.device for _, tensor in named_tensors(self.network)), torch.device("cpu"))
        images = random_batch(batched_inputs(coupling.example_inputs), batch, seed=0)
        self.inputs: Inputs = pytree.tree_map_only(Tensor, lambda x: x.to(device), images)
        self.example = coupling.example_inputs
        self.wide = self.call(self.network)

    def call(self, network: nn.Module) -> Callable[[], Any]:
        """Return what runs the network on the inputs, as it is or as a file in onnxruntime."""
        if self.runtime == "onnxruntime":
            path = self.folder / "network.onnx"
            export_onnx(network, self.example, path, batches=(2,))
            return partial(onnx_runner(path), *tensors_of(self.inputs))
        run = torch.compile(network) if self.runtime == "compiled" else network
        return partial(run_on, run, self.inputs)

    def time(self, plan: Plan) -> tuple[float, float]:
        """Return the ms of the wide network, and the ratio of a narrow copy's time to it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnequalClustersWarning)
            warnings.simplefilter("ignore", CustomGradientWarning)
            copy = narrow(self.network, plan).eval()
        try:
            times = alternated(self.wide, self.call(copy))
        except RuntimeError as error:
            if not is_compiler_error(error):
                raise
            cause: BaseException = getattr(error, "inner_exception", error)
            raise OptionError(
                f"`runtime` compiled does not work here: {first_line(cause).rstrip('.')}. Install a C++ compiler "
                "such as g++ (CXX names another), or take the runtime eager or onnxruntime."
            ) from error
        return times.first_ms, times.ratio

    def added(self, table: LatencyTable, plan: Plan) -> LatencyTable:
        """Time a narrow copy, and add it to the table."""
        wide_ms, ratio = self.time(plan)
        return replace(table, wide_ms=table.wide_ms or wide_ms).with_point(_share(plan), ratio)
