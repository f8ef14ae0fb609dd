"""Load a plan, and cluster the groups again whose widths were edited in its file."""

from __future__ import annotations

import os

from torch import nn

from fxprune.errors import PlanError
from fxprune.plan_file import plan_from, read_plan
from fxprune.plans import Plan

from .plan import METHODS, plan


def load_plan(path: str | os.PathLike[str], model: nn.Module) -> Plan:
    """Load a plan that :meth:`Plan.save` wrote, and check that it was made for this model.

    Numbers in its ``widths`` may be edited: groups whose width differs from their clusters are clustered again, by
    their rows and with the method and the seed of the plan. Groups under the same normalisation follow.

    Raises:
        PlanError: the file is missing, not a plan, incomplete, of a later version, or made for another network; or a
            group cannot have the width that it was given.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> fxprune.plan(fxprune.couple(net, images), keep=0.5).save("plan.json")
        >>> fxprune.load_plan("plan.json", net).widths
        {'0.weight': (8, 4)}
    """
    value = read_plan(path)
    stored = plan_from(value, model, path)
    now = {name: after for name, (_, after) in stored.widths.items()}
    edited = {name: width for name, width in value.get("widths", {}).items() if now.get(name) != width}
    if not edited:
        return stored
    together = {name: unit for unit in stored.coupling.domains for name in [group.name for group in unit]}
    free = {group.name for name in edited for group in together.get(name, ())}
    kept = {name: now[name] for name in stored.clusters if name not in free}
    method = stored.method.partition(",")[0]
    try:
        again = plan(
            stored.coupling, widths=kept | edited, method=method if method in METHODS else "kmeans", seed=stored.seed
        )
    except PlanError as error:
        raise PlanError(f"{path}, `widths`: {error}") from error
    same = {name: stored.clusters[name] for name in kept}
    return Plan(stored.coupling, {**again.clusters, **same}, f"{stored.method}; widths edited", stored.seed)
