"""Check that a network, analysed and narrowed at random, computes the same in every call."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

import fxprune
from fxprune.arguments.batches import admitted
from fxprune.arguments.inputs import Inputs, run_on
from fxprune.capture import WAYS
from fxprune.coupling import Coupling
from fxprune.errors import CaptureError, PlanError, UnequalClustersWarning
from fxprune.passes.merge import concentrate, snap
from fxprune.passes.rewrite import narrow
from fxprune.passes.verify import named_outputs, randomised, relative_error
from fxprune.plans import Plan

from .draw import BATCH, Drawn

# Sums in another order differ by 1e-15 a layer; what is wrong, by 1e-3 and more.
TOLERANCE = 1e-9


class Wrong(AssertionError):
    """A network that was narrowed computes something else, or cannot be narrowed."""


@dataclass
class Facts:
    """The facts about one network.

    Attributes:
        operators: names of its operations.
        groups: number of groups that the analysis found.
        before: channels in them.
        after: channels in them by the plan.
        change: relative change of the output by equal rows; if it is zero, the comparison shows nothing.
        training: training mode was also compared.
        exported: the graph has only operations.
        refused: this way of capture raised an error; nothing was compared.
        unstable: rounding alone moves the output of the wide network as much as narrowing does; nothing is shown.
    """

    operators: list[str] = field(default_factory=list)
    groups: int = 0
    before: int = 0
    after: int = 0
    change: float = 0.0
    training: bool = False
    exported: bool = False
    refused: bool = False
    unstable: bool = False


def random_plan(coupling: Coupling, seed: int) -> Plan:
    """Draw any allowed clusters: of one size in balanced groups, of any size elsewhere."""
    draw, clusters = np.random.default_rng(seed), {}
    for groups in sorted(coupling.domains, key=lambda groups: groups[0].balanced):
        if groups[0].balanced:
            common = math.gcd(*(group.width for group in groups))
            sizes = [n for n in range(2, common + 1) if common % n == 0]
            size = int(draw.choice(sizes)) if draw.random() < 0.9 else 1
            for group in groups:
                clusters[group.name] = draw.permutation(np.arange(group.width) // size)
            continue
        (group,) = groups
        count = int(draw.choice([1, int(draw.integers(1, group.width)), group.width], p=[0.1, 0.8, 0.1]))
        any_size = np.concatenate([np.arange(count), draw.integers(count, size=group.width - count)])
        clusters[group.name] = draw.permutation(any_size)
    return Plan(coupling, clusters, "random", seed)


def examine(drawn: Drawn, seed: int, *, whole: bool = False, exported: bool = False, check: bool = True) -> Facts:
    """Narrow a network by a random plan and compare.

    Raises:
        Wrong: they differ; the message says where, and by how much.
    """
    subject = randomised(drawn.network, seed=seed).double().eval()
    inputs = drawn.inputs(BATCH, seed)
    try:
        coupling = fxprune.couple(subject, inputs, whole=whole, ways=("export",) if exported else WAYS, check=check)
    except CaptureError:
        if not exported:
            raise
        return Facts(drawn.network.operators(), refused=True)
    plan = random_plan(coupling, seed)
    snapped = snap(subject, plan)
    wanted = outputs(snapped, inputs)
    given = {batch: drawn.inputs(batch, seed + batch) for batch in admitted((3, 1), coupling.batch)}
    training = drawn.network.same_in_training and not exported
    try:
        agree("concentrated", wanted, outputs(concentrate(subject, plan), inputs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnequalClustersWarning)  # random rows are merged
            small = narrow(subject, plan)
        agree("narrow", wanted, outputs(small, inputs))
        agree("narrow, second call", wanted, outputs(small, inputs))
        for batch, more in given.items():
            agree(f"narrow, batch of {batch}", outputs(snapped, more), outputs(small, more))
        if training:
            train(snapped, small, inputs, drawn.inputs(BATCH + 1, seed + 9))
    except PlanError:  # widths that a layer cannot have: a projected LSTM must be wider than its projection
        return examine(drawn, seed + 1, whole=whole, exported=exported, check=check)
    except Wrong:
        if not unstable(snapped.eval(), [inputs, *given.values()]):
            raise
        return Facts(drawn.network.operators(), unstable=True)
    before, after = (sum(width[i] for width in plan.widths.values()) for i in (0, 1))
    change = max(map(relative_error, outputs(subject, inputs).values(), wanted.values()))
    return Facts(drawn.network.operators(), len(plan.widths), before, after, change, training, exported)


def unstable(module: nn.Module, given: Sequence[Inputs]) -> bool:
    """Tell whether a unit of rounding on parameters moves an output by too much.

    More than the tolerance is too much. So it is where a normalisation divides what is constant by its deviation, or a
    comparison meets equal numbers.
    """
    moved, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in moved.parameters():
            unit = torch.finfo(tensor.dtype).eps * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.mul_(1 + unit)
    return any(
        not relative_error(wanted, got) <= TOLERANCE
        for inputs in given
        for wanted, got in zip(outputs(module, inputs).values(), outputs(moved, inputs).values(), strict=True)
    )


def train(snapped: nn.Module, small: nn.Module, inputs: Inputs, more: Inputs) -> None:
    """Compare both twice in training mode, then in eval mode with the resulting statistics."""
    snapped.train()
    small.train()
    agree("narrow, training", outputs(snapped, inputs), outputs(small, inputs))
    agree("narrow, training, second call", outputs(snapped, more), outputs(small, more))
    agree("narrow after training", outputs(snapped.eval(), inputs), outputs(small.eval(), inputs))


@torch.no_grad()
def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return outputs by path, of a copy of the inputs."""
    return named_outputs(run_on(module, tuple(x.clone() for x in inputs)))


def agree(what: str, wanted: dict[str, Tensor], got: dict[str, Tensor]) -> None:
    """Raise Wrong where outputs differ."""
    if wanted.keys() != got.keys():
        raise Wrong(f"{what}: outputs {list(got)} instead of {list(wanted)}")
    for path, a in wanted.items():
        error = relative_error(a, got[path])
        if a.isfinite().all() and not error <= TOLERANCE:
            raise Wrong(f"{what}: {path} differs by {error:.1e}")
