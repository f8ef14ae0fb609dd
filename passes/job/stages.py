"""The main job in stages: each begins with the narrow network that the one before has left."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxprune.analysis import couple
from fxprune.coupling import Coupling
from fxprune.errors import OptionError
from fxprune.passes.csgd import Deviation
from fxprune.passes.merge import lift
from fxprune.passes.options import Job, Target
from fxprune.passes.planning import REMOVED, compose, stage_plan, stage_shares, stage_widths
from fxprune.plans import Plan

from .clock import Clock
from .journal import Journal
from .resume import Phases
from .training import phase_of, train_csgd
from .trim import check_equal, check_trim, trim

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Data


@dataclass(frozen=True, eq=False)
class Staged:
    """What the stages came to, in terms of the first network.

    Attributes:
        model: the first network, computing what the network of the last stage does before its trim.
        plan: clusters of all stages in one.
        deviation: at the end of the last stage.
    """

    model: nn.Module
    plan: Plan
    deviation: Deviation


def most_stages(job: Job) -> int:
    """How many stages the job may have; those that would change nothing are left out."""
    if job.stages is None:
        return 1
    return len(REMOVED if isinstance(job.stages, str) else job.stages)


def widths_of_stages(job: Job, coupling: Coupling) -> list[dict[str, int]]:
    """Widths of every group after each stage of a job; with ``allocate: auto``, for the weights as they are now.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: no stage changes anything, or no widths come near the last one.
    """
    asked = {field.name: getattr(job, field.name) for field in fields(Target)}
    kind = next((name for name in ("keep", "macs", "params") if asked[name] is not None), "keep")
    if isinstance(job.stages, str):
        shares = stage_shares(0.5 if asked[kind] is None else asked[kind])
    else:
        shares = tuple(job.stages or ())
    goals = []
    for share in shares:
        try:
            plan = Target(**asked | {kind: share}).plan(coupling, method="even")
        except OptionError as error:
            if share != shares[-1]:
                continue  # no widths are near it: this stage is left out
            raise OptionError(f"`stages` cannot end at {share:g}: {error}") from error
        goals.append({name: after for name, (_, after) in plan.widths.items()})
    stages = stage_widths(coupling, goals, job.round_to)
    if not stages:
        raise OptionError(f"`stages` down to {shares[-1]:g} changes no width of this network: ask for a smaller share.")
    return stages


def narrow_in_stages(
    job: Job,
    model: nn.Module,
    coupling: Coupling,
    stages: list[dict[str, int]],
    data: Data,
    device: torch.device,
    *,
    example: Tensor,
    teacher: nn.Module | None,
    phases: Phases,
    journal: Journal,
    clock: Clock,
) -> Staged:
    """C-SGD and trim, again and again; but for the last trim, after which the job goes on as with one stage.

    Args:
        job: its options.
        model: the wide network with trained weights, on ``device``; it is changed.
        coupling: the analysis of it.
        stages: widths after each stage, see :func:`widths_of_stages`.
        data: to train on.
        device: where.
        example: [N, C, H, W] on the meta device.
        teacher: whose logits the networks are to meet.
        phases: checkpoints of the job.
        journal: records of the job.
        clock: of the job.

    Raises:
        PlanError: a narrow network does not have the groups of the first one.
        VerifyError: a trim changed the network, or C-SGD has not made the clusters of a stage equal.
    """
    current: nn.Module = model
    before = {name: group.width for name, group in coupling.groups.items()}
    done: Plan | None = None
    for stage, widths in enumerate(stages, 1):
        here = coupling if stage == 1 else couple(current, example)
        make = partial(stage_plan, here, widths, before, coupling, method=job.method, seed=job.seed)
        plan = phases.plan(here, make, stage=stage)
        with clock(phase_of(stage), f"until clusters are equal, stage {stage} of {len(stages)}"):
            deviation = train_csgd(
                job,
                current,
                plan,
                data,
                device,
                teacher=teacher,
                checkpoint=phases.checkpoint(phase_of(stage)),
                on_epoch=partial(journal.csgd, stage=stage),
                stage=stage,
                ranks=phases.ranks,
            )
        whole = plan if done is None else compose(done, plan)
        if stage < len(stages):
            nets = trim(current, current, plan, absorb=False)  # it is lifted at the end
            check_equal(nets, deviation, data)
            check_trim(nets, plan, data)
            current, done, before = nets.narrow, whole, widths
    return Staged(model if done is None else lift(model, current, done), whole, deviation)
