"""Compute parameters, multiply-accumulates and latency of a network, and the cost of a plan.

A cost is a polynomial of the shares s of the channels that stay. A contraction costs ``scale * prod_axis (w_axis @ s)``
MACs; a parameter costs the product of such lengths.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.arguments.inputs import as_inputs, as_meta, run_on, tensors_of
from fxprune.common.silence import silenced
from fxprune.coupling import Coupling
from fxprune.errors import OptionError
from fxprune.plans import Plan
from fxprune.pytorch.modules import MetaMode, to_meta

Reals = NDArray[np.float64]
Budget = Literal["macs", "params"]


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        params: trainable numbers; buffers do not count, and a parameter with two names counts once.
        macs: multiply-accumulates of its convolutions, linear layers and products for the example inputs, batch
            included.
    """

    params: int
    macs: int


def cost(what: torch.nn.Module | Coupling | Plan, example_inputs: Any = None) -> Cost:
    """Count parameters and MACs of a network, a coupling's network, or a plan's narrow one.

    Args:
        what: for a coupling or a plan, the cost is derived; for a network, it is counted: a copy runs on the meta
            device, in evaluation mode, under PyTorch's own operator counts.
        example_inputs: for a network only: a tensor, a tuple of arguments, or a dict of arguments by name.

    Raises:
        OptionError: a network without example inputs, or a coupling or plan with some.

    Examples:
        >>> import torch, fxprune
        >>> fxprune.cost(torch.nn.Linear(3, 4), torch.ones(5, 3))
        Cost(params=16, macs=60)
    """
    if isinstance(what, torch.nn.Module) == (example_inputs is None):
        raise OptionError("example_inputs: give them with a network, and leave them out with a coupling or a plan.")
    if isinstance(what, torch.nn.Module):
        return _counted(what, example_inputs)
    if isinstance(what, Plan):
        return _at(what.coupling, what.kept.astype(np.float64))
    as_is = _at(what, np.ones(what.channels + 1))
    return Cost(as_is.params + _absorbed(what), as_is.macs)


def samples_of(coupling: Coupling) -> int:
    """Return the number of samples in the example: 1, if its tensors do not share axis 0."""
    sizes = {len(x) if x.dim() else 1 for x in tensors_of(coupling.example_inputs)}
    return max(1, *sizes) if len(sizes) == 1 else 1


def cost_of_one(what: Coupling | Plan) -> Cost:
    """Return the cost of a coupling's or a plan's network for one sample."""
    total = cost(what)
    return Cost(total.params, total.macs // samples_of(what.coupling if isinstance(what, Plan) else what))


@dataclass(frozen=True, eq=False)
class CostTerms:
    """A polynomial of shares: ``sum_term scale_term * prod_{factor of term} length_factor(s)``.

    Each length is a weighted sum of shares.

    Attributes:
        scale: [terms].
        rows: int64 [weights]; the factor whose length each weight adds to. The last factor is 1, to pad terms with few.
        columns: int64 [weights]; the share that each weight multiplies.
        weights: [weights].
        factors: int64 [terms, most factors of a term].
    """

    scale: Reals
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: Reals
    factors: NDArray[np.int64]

    def value(self, shares: Reals) -> float:
        """Evaluate the cost."""
        return float(self.scale @ self.lengths(shares).prod(axis=1))

    def by_group(self, coupling: Coupling) -> CostTerms:
        """Express the cost by the shares of groups, in the coupling's order, and a final 1."""
        widths = [group.width for group in coupling.groups.values()]
        owner = np.r_[np.repeat(np.arange(len(widths)), widths), len(widths)]
        places, which = np.unique(self.rows * len(owner) + owner[self.columns], return_inverse=True)
        rows, columns = np.divmod(places, len(owner))
        weights = np.bincount(which.ravel(), self.weights).astype(np.float64)
        return CostTerms(self.scale, rows, columns, weights, self.factors)

    def parts(self, shares: Reals) -> Reals:
        """Return for each share but the last what the cost loses where it falls to 0; parts overlap."""
        total, left = self.value(shares), np.tile(shares, (len(shares) - 1, 1))
        np.fill_diagonal(left, 0.0)
        return np.array([total - self.value(each) for each in left])

    def lengths(self, shares: Reals) -> Reals:
        """Return the length of each factor of each term."""
        return np.bincount(self.rows, self.weights * shares[self.columns]).astype(np.float64)[self.factors]


def cost_terms(coupling: Coupling, budget: Budget) -> CostTerms:
    """Express the cost by the share of each channel, in the order of codes, and a final 1."""
    terms = list(_mac_terms(coupling) if budget == "macs" else _param_terms(coupling))
    factors = [factor for _, each in terms for factor in each]
    one = np.full(1, -1), np.ones(1)
    codes, weights = zip(*factors, one, strict=True)
    rows = np.repeat(np.arange(len(codes)), [len(each) for each in codes])
    columns = np.concatenate(codes) % (coupling.channels + 1)  # code -1 is the last share
    index = np.full((len(terms), max((len(each) for _, each in terms), default=1)), len(factors))
    begin = 0
    for row, (_, each) in enumerate(terms):
        index[row, : len(each)] = np.arange(begin, begin + len(each))
        begin += len(each)
    scales = np.array([scale for scale, _ in terms], np.float64)
    return CostTerms(scales, rows, columns, np.concatenate(weights), index)


# Codes of channels, and the part of a length that each is; a length without channels belongs to code -1.
_Factor = tuple[NDArray[np.int64], Reals]


def _mac_terms(coupling: Coupling) -> Iterable[tuple[float, list[_Factor]]]:
    for facts in coupling.nodes.values():
        for work in facts.works:
            each = work.macs / math.prod(len(codes) for codes in work.axes)  # a whole number, so that sums are exact
            yield each, [(codes, np.ones(len(codes))) for codes in work.axes]


def _param_terms(coupling: Coupling) -> Iterable[tuple[float, list[_Factor]]]:
    first = coupling.shared
    names = dict.fromkeys(
        first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)
    )
    on: dict[str, list[list[_Factor]]] = {name: [[] for _ in coupling.shapes[name]] for name in names}
    made = {(first.get(a.parameter, a.parameter), a.dim) for group in coupling.groups.values() for a in group.tied}
    for group in coupling.groups.values():
        codes = np.arange(group.offset, group.offset + group.width)
        for axis in (*group.tied, *group.readers):
            if (name := first.get(axis.parameter, axis.parameter)) in on:
                on[name][axis.dim].append((codes, np.full(group.width, float(axis.positions.shape[1]))))
    for name, axes in on.items():
        factors = [_filled(length, parts) for length, parts in zip(coupling.shapes[name], axes, strict=True)]
        order = sorted(range(len(factors)), key=lambda dim: (name, dim) in made)  # as of MACs: what it makes is last
        yield 1.0, [factors[dim] for dim in order]


def _filled(length: int, parts: list[_Factor]) -> _Factor:
    """Join parts of an axis, and its positions without channels, to one factor."""
    rest = length - sum(float(weights.sum()) for _, weights in parts)
    codes, weights = zip(*parts, (np.full(1, -1), np.full(1, rest)), strict=True)
    return np.concatenate(codes), np.concatenate(weights)


def _at(coupling: Coupling, share: Reals) -> Cost:
    params, macs = (round(cost_terms(coupling, budget).value(share)) for budget in ("params", "macs"))
    return Cost(params, macs)


def _absorbed(coupling: Coupling) -> int:
    """Count parameters that only compute weights: a narrow network has the weights instead."""
    first = coupling.shared
    stays = {first.get(name, name) for name, _ in coupling.graph_module.named_parameters(remove_duplicate=False)}
    read = {first.get(name, name) for each in coupling.functions.values() for name, _ in each.named_parameters()}
    return sum(math.prod(coupling.shapes[name]) for name in read - stays)


def _grouped_flops(a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    lead = a[0] if len(a) == 3 == len(b) else 1
    return 2 * lead * a[-2] * a[-1] * b[-1]


# Operators whose work PyTorch does not count.
_UNCOUNTED = {torch.ops.aten._grouped_mm: _grouped_flops} if hasattr(torch.ops.aten, "_grouped_mm") else {}


def _counted(module: torch.nn.Module, example_inputs: Any) -> Cost:
    from torch.utils.flop_counter import FlopCounterMode

    params = sum(parameter.numel() for parameter in module.parameters())
    ghost = to_meta(module).eval()
    on_meta = MetaMode()  # type: ignore[no-untyped-call]
    with on_meta, FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter, torch.no_grad():
        run_on(ghost, as_meta(as_inputs(example_inputs)))
    return Cost(params, counter.get_total_flops() // 2)


def latency(run: Callable[..., Any], example_inputs: Any, *, seconds: float = 0.5) -> float:
    """Measure the median time of ``run(*example_inputs)`` in seconds, after a warm-up.

    PyTorch keeps its present number of threads.

    Args:
        run: a network, or any function of the inputs.
        example_inputs: a tensor, a tuple of arguments, or a dict of arguments by name.
        seconds: how long to measure.
    """
    from torch.utils.benchmark import Timer

    scope = {"run_on": run_on, "run": run, "inputs": as_inputs(example_inputs)}
    with torch.inference_mode():
        timer = Timer("run_on(run, inputs)", globals=scope, num_threads=torch.get_num_threads())
        return float(timer.blocked_autorange(min_run_time=seconds).median)


def milliseconds(call: Callable[..., Any], images: Any) -> float:
    """Measure the median time of a call on images [N, C, H, W], or other inputs, in ms."""
    with silenced():  # the timer warns if it finds an incomplete CUDA toolkit
        return 1e3 * latency(call, images)


@dataclass(frozen=True)
class PairedTimes:
    """The times of two calls that took turns.

    Attributes:
        first_ms: median of the first call.
        ratio: median, over the pairs, of the second call's time to the first's.
        pairs: how many pairs were timed.
    """

    first_ms: float
    ratio: float
    pairs: int

    @property
    def second_ms(self) -> float:
        """The time of the second call: the first's, times the ratio."""
        return self.first_ms * self.ratio


def alternated(first: Callable[[], Any], second: Callable[[], Any], *, seconds: float = 0.5) -> PairedTimes:
    """Time two calls in alternation, after a warm-up, in 15 pairs or more.

    What else the machine does meets both alike, so that the ratio is far more stable than the times. With one thread
    and no GPU, only the thread's own time counts, not that of other programs on its core.

    Args:
        first: is called first in each pair.
        second: is called next.
        seconds: how long to time each of them, about.
    """
    threads = torch.get_num_threads()
    how: dict[str, Any] = {"timer": time.thread_time} if threads == 1 and not torch.cuda.is_available() else {}
    with torch.inference_mode(), silenced():
        from torch.utils.benchmark import Timer  # which says that there is no CUDA

        one, other = (Timer("call()", globals={"call": each}, num_threads=threads, **how) for each in (first, second))
        once = max(timer.timeit(3).median for timer in (one, other))  # and warms up
        number = max(1, round(min(0.02, seconds / 25) / once))  # calls too short for the clock are timed together
        pairs = [
            (one.timeit(number).median, other.timeit(number).median)
            for _ in range(max(15, round(seconds / (number * once))))
        ]
    times, others = np.array(pairs).T
    return PairedTimes(1e3 * float(np.median(times)), float(np.median(others / times)), len(pairs))
