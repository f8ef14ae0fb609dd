"""Run the main job in stages: each starts from the narrow network of the stage before."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.analysis import couple
from fxprune.coupling import Coupling
from fxprune.errors import OptionError, WidthWarning
from fxprune.models_zoo import Network
from fxprune.passes.csgd import Deviation
from fxprune.passes.latency import plan_to
from fxprune.passes.merge import expand
from fxprune.passes.options import Target
from fxprune.passes.planning import REMOVED, compose, stage_plan, stage_shares, stage_widths
from fxprune.plans import Plan

from .journal import phase_of
from .prepare import images_for
from .training import Trainer
from .trim import check_equal, check_trim, trim


@dataclass(frozen=True, eq=False)
class Staged:
    """The result of the stages, in terms of the first network.

    Attributes:
        model: the first network, which computes what the network of the last stage computes before its trim.
        plan: the clusters of all stages in one.
        deviation: at the end of the last stage.
    """

    model: nn.Module
    plan: Plan
    deviation: Deviation


def most_stages(stages: Sequence[float] | str | None) -> int:
    """Return the largest number of stages; stages that change nothing are left out."""
    if stages is None:
        return 1
    return len(REMOVED if isinstance(stages, str) else stages)


def widths_of_stages(target: Target, stages: Sequence[float] | str, coupling: Coupling) -> list[dict[str, int]]:
    """Return the widths of every group after each stage.

    Args:
        target: where the last stage ends, unless ``stages`` are shares.
        stages: shares, or ``auto``.
        coupling: the analysis of the first network.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: no stage changes anything, or no widths come near the last one.
    """
    kind = next((name for name in ("keep", "macs", "params") if getattr(target, name) is not None), "keep")
    goal = getattr(target, kind)
    shares = stage_shares(0.5 if goal is None else goal) if isinstance(stages, str) else tuple(stages)
    goals = []
    for share in shares:
        try:
            asked: dict[str, Any] = {kind: share}
            with warnings.catch_warnings():
                if share != shares[-1]:
                    warnings.simplefilter("ignore", WidthWarning)  # only the last widths stay
                plan = plan_to(target.replace(**asked), coupling, method="even")
        except OptionError as error:
            if share != shares[-1]:
                continue  # no widths are near this share, so leave out the stage
            raise OptionError(f"`stages` cannot end at {share:g}: {error}") from error
        goals.append({name: after for name, (_, after) in plan.widths.items()})
    widths = stage_widths(coupling, goals, target.multiple)
    if not widths:
        raise OptionError(f"`stages` down to {shares[-1]:g} changes no width of this network: ask for a smaller share.")
    return widths


def narrow_in_stages(
    trainer: Trainer,
    network: Network,
    coupling: Coupling,
    widths: Sequence[Mapping[str, int]],
    target: Target,
    teacher: nn.Module | None,
) -> Staged:
    """Alternate C-SGD and trim, without the last trim, which the job does as with one stage.

    Args:
        trainer: with checkpoints.
        network: the wide one with trained weights; its model is changed.
        coupling: the analysis of it.
        widths: of every group after each stage, see :func:`widths_of_stages`.
        target: how clusters are found.
        teacher: the networks imitate its logits.

    Raises:
        PlanError: a narrow network does not have the groups of the first one.
        VerifyError: a trim changed the network, or C-SGD has not made the clusters of a stage equal.
    """
    assert trainer.checkpoints is not None
    current: nn.Module = network.model
    before: Mapping[str, int] = {name: group.width for name, group in coupling.groups.items()}
    done: Plan | None = None
    for stage, after in enumerate(widths, 1):
        here = coupling if stage == 1 else couple(current, network.example)

        def make(here: Coupling = here, after: Mapping[str, int] = after, before: Mapping[str, int] = before) -> Plan:
            how = {"method": target.method, "cluster": target.clusters_by, "seed": target.seed}
            return stage_plan(here, after, before, coupling, batches=images_for(target, trainer.data), **how)

        plan = trainer.checkpoints.plan(here, make, stage=stage)
        with trainer.clock(phase_of(stage), f"until clusters are equal, stage {stage} of {len(widths)}"):
            deviation = trainer.train_csgd(current, plan, teacher, stage=stage)
        composed = plan if done is None else compose(done, plan)
        if stage < len(widths):
            nets = trim(current, current, plan, absorb=False)  # it is expanded at the end
            check_equal(nets, deviation, trainer.data)
            check_trim(nets, plan, trainer.data)
            current, done, before = nets.narrow, composed, after
    model = network.model if done is None else expand(network.model, current, done)
    return Staged(model, composed, deviation)
