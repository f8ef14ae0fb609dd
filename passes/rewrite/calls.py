"""The function that rewrites each kind of call whose literals depend on channels.

:mod:`fxprune.pytorch.call_targets` lists the kinds. A function takes a :class:`~fxprune.passes.rewrite.site.Site` and
returns the node that replaces the call in the narrow graph, or None if the call can be copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from fxprune.pytorch import call_targets as surface

from .functional_layers import convolved, convolved_back, grouped, normalised
from .indexing import picked, put, sliced
from .site import Site
from .sizes import created, interleaved, joined, like_another, padded, pieces, repeated, resized, squeezed
from .sums import attention, corrected, multiplied, shifted


def _table(
    *cases: tuple[Iterable[surface.CallTarget], Callable[[Site], fx.Node | None]],
) -> dict[Any, Callable[[Site], fx.Node | None]]:
    return {target: case for targets, case in cases for target in targets}


CASES = _table(
    (surface.VIEWS | surface.FLATTENS | surface.EXPANSIONS, resized),
    (surface.SQUEEZES, squeezed),
    (surface.SPLITS, pieces),
    (surface.SLICES, sliced),
    (surface.INDICES, picked),
    (surface.PUTS, put),
    (surface.PADS, padded),
    (surface.PRODUCTS | surface.SUMS | surface.LENGTHS | surface.SOFTMAXES, multiplied),
    (surface.LOGARITHMS, shifted),
    (surface.VARIANCES, corrected),
    (surface.ATTENTION, attention),
    (surface.CONVOLUTIONS, convolved),
    (surface.TRANSPOSED, convolved_back),
    (surface.NORMS, normalised),
    (surface.GROUP_NORMS, grouped),
    (surface.LIKE, like_another),
    (surface.REPEATS, repeated),
    (surface.INTERLEAVED, interleaved),
    (surface.JOINS, joined),
    (surface.FACTORIES, created),
)
