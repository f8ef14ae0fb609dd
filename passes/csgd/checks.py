"""Reject C-SGD before the first step: no or two strengths, nothing to train, two pulls."""

from __future__ import annotations

from collections.abc import Sequence, Set

from torch import nn

from fxprune.errors import OptionError

from .tied import Tied


def check_asked(strength: float | None, deviation: float | None, lrs: Sequence[float] | None) -> None:
    """Raise OptionError unless the strength of the pull is given exactly once."""
    if (deviation is None) != (lrs is None):
        raise OptionError(
            "`deviation`, the one to end at, and `lrs`, the learning rate of every step to come, go together."
        )
    if (strength is None) == (deviation is None):
        raise OptionError(
            "give either `deviation`, the one to end at, with `lrs`, the learning rate of every step to come, from "
            "which the strength is solved; or `strength`. There is no default: what makes clusters equal in a thousand "
            "steps leaves them as they are in a hundred."
        )
    if strength is not None and not 0.0 < strength < float("inf"):
        raise OptionError(f"`strength` is {strength:g}; it must be above 0, or nothing pulls the clusters together.")


def check_free(tied: Sequence[Tied], pulled: Set[nn.Parameter]) -> None:
    """Raise OptionError if nothing would train, or if another hook pulls a parameter already."""
    if tied and not any(each.parameter.requires_grad for each in tied):
        raise OptionError(
            f"none of the {len(tied)} parameters that the plan merges takes gradients (requires_grad=False): they "
            "would be pulled together without being trained. Set requires_grad, or use `fxprune.snap` alone."
        )
    twice = next((each.name for each in tied if each.parameter in pulled), None)
    if twice is not None:
        raise OptionError(
            f"another C-SGD hook on this optimizer pulls `{twice}` already, and two would pull twice: call its "
            "`remove()` first."
        )
