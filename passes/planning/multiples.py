"""Widths after a plan that are no multiples of what the hardware computes at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from fxprune.common.text import count, listed
from fxprune.coupling import Coupling
from fxprune.errors import WidthWarning


def odd_widths(coupling: Coupling, widths: Mapping[str, int], multiple: int) -> dict[str, int]:
    """Map each group whose layers end at no multiple to that width of its layers."""
    found = {}
    for name, group in coupling.groups.items():
        length = widths.get(name, group.width) * (*group.tied, *group.readers)[0].positions.shape[1]
        if length % multiple:
            found[name] = length
    return found


def odd_in_words(odd: Mapping[str, int], multiple: int) -> str:
    """Say which widths are no multiples."""
    layers = listed(f"{name} ({width})" for name, width in odd.items())
    return (
        f"the layers of {count(len(odd), 'group')} end at widths that are no multiples of {multiple}: {layers}. "
        "These groups can have no multiple, or keep their widths."
    )


def warn_of_odd_widths(coupling: Coupling, widths: Mapping[str, int], multiple: int) -> None:
    """Warn with :class:`WidthWarning` where layers end at no multiple."""
    if odd := odd_widths(coupling, widths, multiple):
        warnings.warn(odd_in_words(odd, multiple), WidthWarning, stacklevel=3)
