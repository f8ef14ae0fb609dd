"""The function that rewrites each kind of call whose literals depend on channels.

:mod:`fxprune.pytorch.call_targets` lists the kinds. A function takes a :class:`~fxprune.passes.rewrite.site.Site` and
returns the node that replaces the call in the narrow graph, or None if the call can be copied as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from fxprune.pytorch import call_targets

from .functional_layers import convolved, convolved_back, grouped, normalised
from .indexing import picked, put, sliced
from .site import Site
from .sizes import created, interleaved, joined, like_another, padded, pieces, repeated, resized, squeezed
from .sums import attention, corrected, multiplied, shifted


def _table(
    *cases: tuple[Iterable[call_targets.CallTarget], Callable[[Site], fx.Node | None]],
) -> dict[Any, Callable[[Site], fx.Node | None]]:
    return {target: case for targets, case in cases for target in targets}


CASES = _table(
    (call_targets.VIEWS | call_targets.FLATTENS | call_targets.EXPANSIONS, resized),
    (call_targets.SQUEEZES, squeezed),
    (call_targets.SPLITS, pieces),
    (call_targets.SLICES, sliced),
    (call_targets.INDICES, picked),
    (call_targets.PUTS, put),
    (call_targets.PADS, padded),
    (call_targets.PRODUCTS | call_targets.SUMS | call_targets.LENGTHS | call_targets.SOFTMAXES, multiplied),
    (call_targets.LOGARITHMS, shifted),
    (call_targets.VARIANCES, corrected),
    (call_targets.ATTENTION, attention),
    (call_targets.CONVOLUTIONS, convolved),
    (call_targets.TRANSPOSED, convolved_back),
    (call_targets.NORMS, normalised),
    (call_targets.GROUP_NORMS, grouped),
    (call_targets.LIKE, like_another),
    (call_targets.REPEATS, repeated),
    (call_targets.INTERLEAVED, interleaved),
    (call_targets.JOINS, joined),
    (call_targets.FACTORIES, created),
)
