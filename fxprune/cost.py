"""Parameters, multiply-accumulates and latency of a network, and of a plan before it is carried out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.common.inputs import as_inputs, as_meta, call
from fxprune.common.quiet import quiet
from fxprune.coupling import Coupling
from fxprune.plans import Plan


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: trainable numbers; buffers do not count, and a parameter with two names counts once.
        macs: multiply-accumulates of its convolutions, linear layers and products for the example inputs, batch
            included.
    """

    params: int
    macs: int


def cost(coupling: Coupling) -> Cost:
    """Cost of the network as it is."""
    as_is = _cost(coupling, np.ones(coupling.channels + 1))
    return Cost(as_is.params + _absorbed(coupling), as_is.macs)


def plan_cost(plan: Plan) -> Cost:
    """Cost of the narrow network: each weight axis and each contraction shrinks to its share of kept channels."""
    return _cost(plan.coupling, plan.kept.astype(np.float64))


def widths_cost(coupling: Coupling, widths: Mapping[str, int]) -> Cost:
    """Cost at the given widths, before any cluster is known; groups that are not named keep theirs.

    Equal to :func:`plan_cost` of any plan with these widths, where an axis carries all the channels of a group or none.
    """
    share = np.ones(coupling.channels + 1)
    for name, width in widths.items():
        group = coupling.groups[name]
        share[group.offset : group.offset + group.width] = width / group.width
    return _cost(coupling, share)


def measure_cost(module: torch.nn.Module, example_inputs: Any) -> Cost:
    """Cost of any module, counted on the meta device by PyTorch's own operator counts.

    Args:
        module: the network; a copy of it runs, in evaluation mode and without data.
        example_inputs: a tensor, a tuple of arguments, or a dict of arguments by name.
    """
    from torch.utils.flop_counter import FlopCounterMode

    params = sum(parameter.numel() for parameter in module.parameters())
    ghost = copy.deepcopy(module).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(ghost, as_meta(as_inputs(example_inputs)))
    return Cost(params, counter.get_total_flops() // 2)


def latency(run: Callable[..., Any], example_inputs: Any, *, seconds: float = 0.5) -> float:
    """Median time of ``run(*example_inputs)`` in seconds, after a warm-up, with the threads that PyTorch has now.

    Args:
        run: a network, or any function of the inputs.
        example_inputs: a tensor, a tuple of arguments, or a dict of arguments by name.
        seconds: how long to measure for.
    """
    from torch.utils.benchmark import Timer

    scope = {"call": call, "run": run, "inputs": as_inputs(example_inputs)}
    with torch.inference_mode():
        timer = Timer("call(run, inputs)", globals=scope, num_threads=torch.get_num_threads())
        return float(timer.blocked_autorange(min_run_time=seconds).median)


def milliseconds(call: Callable[..., Any], images: torch.Tensor) -> float:
    """Median time of a call on a batch of images [N, C, H, W]."""
    with quiet():  # the timer looks for a CUDA toolkit, and says so where it finds half of one
        return 1e3 * latency(call, images)


def _cost(coupling: Coupling, share: NDArray[np.float64]) -> Cost:
    """Cost when ``share[code]`` of each channel stays; the last entry, 1, answers for code -1."""
    params = 0.0
    for lengths in _lengths(coupling, share).values():
        params += float(np.prod(lengths))
    macs = 0.0
    for facts in coupling.nodes.values():
        for work in facts.works:
            macs += work.macs * float(np.prod([share[codes].mean() for codes in work.axes]))
    return Cost(round(params), round(macs))


def _absorbed(coupling: Coupling) -> int:
    """Parameters that are only there to compute weights from: a narrow network has the weights instead."""
    first = coupling.shared
    stays = {first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)}
    read = {first.get(name, name) for each in coupling.functions.values() for name, _ in each.named_parameters()}
    return sum(math.prod(coupling.shapes[name]) for name in read - stays)


def _lengths(coupling: Coupling, share: NDArray[np.float64]) -> dict[str, Sequence[float]]:
    """Parameter name -> lengths of its axes that stay; a parameter with several names is there once."""
    first = coupling.shared
    names = {first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)}
    lengths = {name: [float(n) for n in coupling.shapes[name]] for name in names}
    for group in coupling.groups.values():
        gone = (1.0 - share[group.offset : group.offset + group.width]).sum()
        for axis in (*group.tied, *group.readers):
            name = first.get(axis.parameter, axis.parameter)
            if gone and name in lengths:
                lengths[name][axis.dim] -= gone * axis.positions.shape[1]
    return dict(lengths)
