"""The strength of the pull from the deviation that is to be left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxprune.errors import OptionError


def solve_strength(lrs: Sequence[float], shrink: float) -> float:
    """Find eps with prod_t (1 - lr_t * eps) = shrink.

    Args:
        lrs: learning rate of every step to come.
        shrink: final deviation over present deviation, above 0; 1 or more needs no pull, and eps = 0.

    Raises:
        OptionError: a learning rate below 0, no step with a learning rate above 0, or a shrink that no eps with
            lr * eps < 1 reaches.
    """
    from scipy.optimize import brentq

    rates = np.asarray(lrs, dtype=np.float64).ravel()
    if not shrink > 0.0:
        raise OptionError(f"the deviation left over must be above 0, not {shrink:g} times the present one.")
    if rates.size == 0 or not np.isfinite(rates).all() or rates.min() < 0.0 or rates.max() == 0.0:
        shown = f"{rates.size} steps" + (f" from {rates.min():g} to {rates.max():g}" if rates.size else "")
        raise OptionError(f"`lrs` needs learning rates of 0 and more, and one above 0 at least; it has {shown}.")
    goal = np.log(shrink)

    def surplus(strength: float) -> float:
        return float(np.log1p(-rates * strength).sum() - goal)

    if surplus(0.0) <= 0.0:
        return 0.0
    limit = (1.0 - 1e-12) / float(rates.max())  # at lr * eps = 1 the logarithm is infinite
    if surplus(limit) > 0.0:
        raise OptionError(
            f"{rates.size} steps with learning rates up to {rates.max():g} cannot shrink the deviation by {shrink:g}: "
            f"lr * strength must stay below 1. Train longer, or ask for a larger deviation."
        )
    # To the last digits: what eps misses is multiplied by the sum of the learning rates in the logarithm.
    return float(brentq(surplus, 0.0, limit, xtol=limit * 1e-15, rtol=1e-14))
