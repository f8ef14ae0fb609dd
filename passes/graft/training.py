"""A graft trains as the narrow network does, or as the wide one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, inputs_for
from fxprune.arguments.outputs import counts, place_of
from fxprune.equivalence import Certain, differs, try_to_observe
from fxprune.errors import GraftError, PlanError, UncheckedWarning
from fxprune.passes.merge import expand
from fxprune.passes.verify import KeepFloat64, named_outputs, random_batch
from fxprune.plan_file import outputs_of, plan_of
from fxprune.plans import Plan
from fxprune.pytorch.modules import float64_copy

from .computed_weights import Computed, with_computed


def check_training(
    model: nn.Module, grafted: nn.Module, narrow: fx.GraphModule, inputs: Inputs, computed: Computed
) -> None:
    """Compare a graft in training mode, without dropout and with random numbers of one half.

    A narrow graph may refuse training mode, where the class does something else. Then the class in full width is what
    the graft is compared with, if the weights of the narrow network tell those of a wide one that computes the same.

    Raises:
        GraftError: they differ.

    Warns:
        UncheckedWarning: there is nothing to compare with, or all that differs may be random.
    """
    given, counted = random_batch(inputs, 3, seed=0), outputs_of(narrow)
    found, draws = _outputs(grafted, given, counted)
    if isinstance(found, str):
        return _warn(grafted, f"it {found}")
    why = "the narrow network refuses that mode"
    for reference in _references(model, grafted, narrow, computed):
        wanted, drew = _outputs(reference, given, counted)
        if isinstance(wanted, str):
            continue
        reported = [said for a, b in zip(wanted, found, strict=False) if (said := differs(a, b))]
        if not reported and len(wanted) == len(found):
            return None
        why = f"an output {reported[0]}" if reported else f"it returns {len(found)} values instead of {len(wanted)}"
        if not (draws or drew):
            raise GraftError(
                f"{type(grafted).__name__} computes something else than the narrow network in training mode only: "
                f"{why}. Its code uses a width there that no attribute holds."
            )
    return _warn(grafted, why)


def _references(
    model: nn.Module, grafted: nn.Module, narrow: fx.GraphModule, computed: Computed
) -> Iterator[nn.Module]:
    plan = plan_of(narrow)
    yield with_computed(narrow, grafted, computed)
    if isinstance(plan, Plan) and not computed:
        try:
            wide = expand(model, narrow, plan)
        except PlanError:  # factors are in its weights, or the plan is for other names
            return
        yield wide


@torch.no_grad()
def _outputs(network: nn.Module, inputs: Inputs, counted: Sequence[str] | None) -> tuple[list[object] | str, bool]:
    """Return what a float64 copy returns in training mode, or why not; and whether it draws."""
    double = float64_copy(network).train()
    with KeepFloat64(), Certain():  # type: ignore[no-untyped-call]
        seen = try_to_observe(_Counted(double, counted).train(), inputs_for(double, inputs))
    return (seen, False) if isinstance(seen, str) else (seen.outputs, seen.draws)


class _Counted(nn.Module):
    """Returns the tensors among the outputs that count."""

    def __init__(self, network: nn.Module, counted: Sequence[str] | None) -> None:
        super().__init__()
        self.network, self.counted = network, counted

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        found = named_outputs(self.network(*args, **kwargs))
        return [tensor for path, tensor in found.items() if counts(place_of(path), self.counted)]


def _warn(grafted: nn.Module, why: str) -> None:
    warnings.warn(
        f"{type(grafted).__name__} computes what the narrow network does in eval mode; whether it trains so was not "
        f"compared: {why}.",
        UncheckedWarning,
        stacklevel=4,
    )
