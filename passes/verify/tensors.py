"""Compare the tensors of a narrow network with those that its plan makes of the wide one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.passes.rewrite import merged_by, merged_tensors
from fxprune.plan_file import meta_of
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors

from .outputs import relative_error


def tensor_errors(
    wide: nn.Module, narrow: nn.Module, plan: Plan, *, made: nn.Module | None = None
) -> Mapping[str, float] | None:
    """Return the relative error of every narrow tensor against the merged wide tensor.

    Channels that are dead on all given inputs hide a change from every output, but not from this. ``made`` is what the
    plan makes of the wide network, if it is there already.

    Returns:
        Tensor name -> largest difference over the largest number. None if the two cannot be compared: ``wide`` is not
        the network of the plan, or ``narrow`` was rewritten since, for example by fusing layers.
    """
    known = meta_of(narrow)
    try:
        if made is None and known.get("absorbed") == 0:
            merged = merged_tensors(plan, wide)
        else:
            made = made or merged_by(plan, wide)[0]
            if meta_of(made)["factors"] != known.get("factors"):
                made, _ = merged_by(plan, wide, absorb=False)
            merged = dict(named_tensors(made))
    except InputError:
        return None
    found = dict(named_tensors(narrow))
    if merged.keys() != found.keys():
        return None
    return {name: relative_error(tensor, found[name]) for name, tensor in merged.items()}


def differing(errors: Mapping[str, float], tolerance: float, narrow: nn.Module) -> dict[str, float]:
    """Return the tensors whose error exceeds the tolerance and rounding, largest first."""
    found = dict(named_tensors(narrow))

    def bound(name: str) -> float:
        kind = found[name].dtype
        return max(tolerance, 2 * torch.finfo(kind).eps if kind.is_floating_point else 0.0)

    wrong = {name: error for name, error in errors.items() if not error <= bound(name)}
    return dict(sorted(wrong.items(), key=lambda item: -item[1]))
