"""When the narrow network goes wrong, merging group by group tells which merge did it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxprune.errors import FxpruneError
from fxprune.passes.merge import snap
from fxprune.passes.rewrite import narrow
from fxprune.plans import Plan

from .float64 import StaysDouble
from .outputs import named_outputs, relative_error


@dataclass(frozen=True)
class Culprit:
    """The group (or groups under one normalisation) whose merge alone does the most harm; prints as a clause.

    Attributes:
        group: its name; several names separated by commas.
        rel_error: largest |snapped - narrow| over largest |snapped|; inf where the rewrite itself fails.
        reason: what the rewrite said, where it failed.
    """

    group: str
    rel_error: float
    reason: str = ""

    def __str__(self) -> str:
        why = self.reason or f"merged alone, it moves the output by {self.rel_error:.2g} of its largest value"
        return f"the worst group is `{self.group}`: {why}"


def worst_group(model: nn.Module, plan: Plan, images: Tensor) -> Culprit:
    """The group for which narrow and snapped network, merged in that group alone, differ the most.

    Args:
        model: the wide network; give it in float64 to see past rounding.
        plan: all clusters, on this very model.
        images: [N, C, H, W], on the model's device and of its kind.
    """
    return max((_merge_alone(model, plan, names, images) for names in _parts(plan)), key=lambda part: part.rel_error)


def _parts(plan: Plan) -> list[set[str]]:
    """Groups that can be merged on their own: one, or all of those that need clusters of one common size."""
    parts: dict[object, set[str]] = {}
    for name in plan.clusters:
        group = plan.coupling.groups[name]
        parts.setdefault(group.domain if group.balanced else name, set()).add(name)
    return list(parts.values())


def _merge_alone(model: nn.Module, plan: Plan, names: set[str], images: Tensor) -> Culprit:
    part, group = plan.restrict(names), ", ".join(sorted(names))
    try:
        with torch.no_grad(), StaysDouble():  # type: ignore[no-untyped-call]
            snapped = snap(model, part).eval()
            wanted = named_outputs(snapped(images))
            got = named_outputs(narrow(snapped, part).eval()(images))
    except FxpruneError as error:
        return Culprit(group, float("inf"), str(error))
    return Culprit(group, max(relative_error(a, b) for a, b in zip(wanted.values(), got.values(), strict=True)))
