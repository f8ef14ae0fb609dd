"""Merge the trained network, and compare the narrow network with the snapped wide one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import fx, nn

from fxprune.arguments.batches import admitted, graph_batches
from fxprune.arguments.inputs import batch_of
from fxprune.common.random import seeded
from fxprune.errors import FxpruneError, VerifyError, first_line, is_out_of_memory
from fxprune.models_zoo.data import Task, first_samples
from fxprune.passes.csgd import Deviation
from fxprune.passes.merge import settle, snap, unsettled
from fxprune.passes.repair import fold
from fxprune.passes.rewrite import UNEQUAL, narrow
from fxprune.passes.train import MOVED, answers
from fxprune.passes.verify import Report, batched_inputs, repeat_to, verify_rewrite, worst_group
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import pytree

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data, Loader


# Relative change of a running statistic above which they are estimated again. After that it is some 1e-4.
SETTLED = 1e-3
# Training images from which the merge without C-SGD is repaired.
REPAIR_IMAGES = 128


@dataclass(frozen=True, eq=False)
class Nets:
    """One network in every form that the table compares.

    Attributes:
        wide: before C-SGD.
        merged: the same plan applied to ``wide``, to show the trim without C-SGD.
        trained: after C-SGD.
        snapped: ``trained`` with equal clusters.
        narrow: ``snapped`` with one channel per cluster.
        snap_change: largest relative change of a row from ``trained`` to ``snapped``.
    """

    wide: nn.Module
    merged: fx.GraphModule
    trained: nn.Module
    snapped: nn.Module
    narrow: fx.GraphModule
    snap_change: float


def trim(wide: nn.Module, trained: nn.Module, plan: Plan, *, absorb: bool = True) -> Nets:
    """Snap, merge and rewrite copies of the networks; ``absorb`` is that of narrow."""
    snapped = snap(trained, plan)
    # Copies of the network that the plan was made on, which check_trim holds the result to: no new analysis.
    merged, small = (narrow(each, plan.of_copy(each), absorb=absorb) for each in (snap(wide, plan), snapped))
    return Nets(wide, merged, trained, snapped, small, float(snapped.max_change))  # type: ignore[arg-type]


def repaired_merge(wide: nn.Module, plan: Plan, data: Data, seed: int) -> fx.GraphModule | None:
    """Fold the network before C-SGD: what the merge is worth without it, at its best.

    Returns:
        None if there is not enough memory: a comparison must not end a job.
    """
    from fxprune.models_zoo.data import unlabelled

    try:
        return fold(wide, plan.of_copy(wide), unlabelled(data, REPAIR_IMAGES, seed=seed))
    except Exception as error:
        if isinstance(error, FxpruneError) or is_out_of_memory(error):
            print(f"the merge without C-SGD was not repaired: {first_line(error)}", file=sys.stderr, flush=True)
            return None
        raise


def settle_statistics(trained: nn.Module, plan: Plan, data: Data, seed: int) -> int:
    """Estimate running statistics again if the snap would change them.

    Args:
        trained: after C-SGD; its buffers are changed in place.
        plan: the clusters.
        data: its training images are used.
        seed: of their order and augmentation.

    Returns:
        The number of training images that were used.
    """
    moved, _ = unsettled(trained, plan)
    if moved <= SETTLED:
        return 0
    with seeded(seed):
        return settle(trained, (images for images, _ in data.train))


def check_equal(nets: Nets, deviation: Deviation, data: Data) -> None:
    """Check that C-SGD has made the members of every cluster equal to within 1 %.

    Raises:
        VerifyError: it has not; the message says how that affects the test images.
    """
    if not deviation.largest <= UNEQUAL:
        raise VerifyError(
            f"the clusters are not equal after C-SGD: a row of `{deviation.where}` deviates from the mean of its "
            f"cluster by {deviation.largest:.2g} of the size of its rows, and with all rows at their means "
            f"{_SnapEffect.of(nets, data)}. Take a larger strength, or the default, which is solved for, or more "
            "epochs of C-SGD."
        )


def check_snap(nets: Nets, data: Data) -> int:
    """Check that the snap changes the class of at most one test image in a thousand, or of one.

    Where there are no classes, outputs may not change, see :data:`fxprune.passes.train.MOVED`.

    Returns:
        The number of test images with another class, or other outputs.

    Raises:
        VerifyError: it changes more.
    """
    effect = _SnapEffect.of(nets, data)
    allowed = max(1, effect.count // 1000)
    if effect.changed > allowed:
        changes: dict[str, float] = nets.snapped.changes  # type: ignore[assignment]
        worst = max(changes, key=changes.__getitem__)
        raise VerifyError(
            f"the snap changed the network: {effect}, where {allowed} may. It moved a row of "
            f"`{worst}` by {changes[worst]:.2g} of the size of its rows. Ask for a smaller deviation, or for more "
            "epochs of C-SGD."
        )
    return effect.changed


@dataclass(frozen=True)
class _SnapEffect:
    """The effect of the snap on the test samples: their number, how many change, and the score."""

    task: Task
    count: int
    changed: int
    before: str
    after: str

    @classmethod
    def of(cls, nets: Nets, data: Data) -> _SnapEffect:
        device = next(nets.trained.parameters()).device
        before, after = (answers(network, data.test, device, data.task) for network in (nets.trained, nets.snapped))
        return cls(
            data.task,
            before.count,
            after.changed(before),
            *(each.score(finite=False).short for each in (before, after)),
        )

    def __str__(self) -> str:
        return (
            f"{self.changed} of {self.count} test {changes_of(self.task)} ({self.task.name} {self.before} before, "
            f"{self.after} after)"
        )


def changes_of(task: Task) -> str:
    """Describe what changes where an answer is not that of another network."""
    return "images get another class" if task.classifies else f"samples get an output that is {MOVED:.0%} off"


class Tested(Protocol):
    """Data that has test images."""

    @property
    def test(self) -> Loader:
        """Batches of images and classes, or of inputs and targets."""
        ...

    @property
    def task(self) -> Task:
        """Return what judges the network."""
        ...


def check_trim(nets: Nets, plan: Plan, data: Tested) -> Report:
    """Check that narrow equals snapped, to 1e-9 in float64 and in every test sample's answer.

    Raises:
        VerifyError: they are not equal; the message names the group whose merge causes the largest error.
    """
    inputs = batched_inputs(first_samples(next(iter(data.test))[0], 8))
    bound = graph_batches(nets.narrow, plan.coupling.example_inputs)  # its guards may bind it more than the wide one's
    inputs = repeat_to(inputs, admitted([batch_of(inputs)], bound)[0])
    report, snapped, wide_plan = verify_rewrite(nets.snapped, plan, inputs, batches=admitted((1, 3), bound))
    device = next(snapped.parameters()).device
    narrowed, wide = (answers(network, data.test, device, data.task) for network in (nets.narrow, nets.snapped))
    differ = narrowed.changed(wide)
    if report.passed and not differ:
        return report
    moved = pytree.tree_map_only(
        torch.Tensor, lambda x: x.to(device, torch.float64 if x.is_floating_point() else x.dtype), inputs
    )
    culprit = worst_group(snapped, wide_plan, moved)
    reason = f" ({report.reason})" if report.reason else ""
    raise VerifyError(
        f"the trim changed the network: beside the snapped wide network, {differ} of {wide.count} test "
        f"{changes_of(data.task)}, and outputs differ by {report.max_rel_error:.2g} in float64{reason}; {culprit}. "
        "This is an error in fxprune: do not use the narrow network. Leave that group out with --widths."
    )
