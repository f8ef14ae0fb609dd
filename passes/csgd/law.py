"""The law of the pull: how a deviation shrinks, and the strength that ends at a given one.

Decoupled: prod_t (1 - lr_t * eps). Coupled, as in the paper: through SGD's momentum and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

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


@dataclass(frozen=True)
class Momentum:
    """Options of torch.optim.SGD that the law depends on."""

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def critical(self) -> float:
        """Largest lr * (eps + weight_decay) at which the deviation does not oscillate.

        A larger value is no faster.
        """
        if self.nesterov:
            return ((1.0 - self.momentum) / (1.0 + self.momentum)) ** 2
        return (1.0 - math.sqrt(self.momentum)) ** 2 / (1.0 - self.dampening)


def momentum_of(group: dict[str, Any]) -> Momentum:
    """Read the options of one parameter group of torch.optim.SGD."""
    options = Momentum(*(group[name] for name in ("momentum", "dampening", "nesterov", "weight_decay")))
    return options if options.momentum else replace(options, dampening=0.0)  # without momentum SGD ignores it


def check_coupled(optimizer: Optimizer) -> None:
    """Raise OptionError if the optimizer would rescale or turn a pull in the gradient.

    Adaptive optimizers divide each weight's gradient by its own size. This would scale the pull away, and rows with
    equal gradients would take unequal steps.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        raise OptionError(
            f"the coupled form puts the pull into the gradient, which {type(optimizer).__name__} would normalise: take "
            "torch.optim.SGD, or the decoupled form, which any optimizer can have."
        )
    for index, group in enumerate(optimizer.param_groups):
        if group["maximize"] or group["fused"]:
            option = "maximize" if group["maximize"] else "fused"
            raise OptionError(
                f"the coupled form needs {option}=False, unlike parameter group {index} of the optimizer: "
                "its step would turn or rescale the gradient that the pull is part of."
            )


@dataclass(frozen=True)
class Motion:
    """A deviation and its momentum, both relative to the deviation at the start.

    Attributes:
        left: the deviation.
        momentum: b of the law.
        fresh: whether SGD has no momentum yet, so that dampening does not count in the next step.
    """

    left: float = 1.0
    momentum: float = 0.0
    fresh: bool = True


def advance(motion: Motion, lr: float, strength: float, options: Momentum) -> Motion:
    """Apply the law for one step."""
    k, d = strength + options.weight_decay, motion.left
    new = k * d if motion.fresh else (1.0 - options.dampening) * k * d
    b = options.momentum * motion.momentum + new
    return Motion(d - lr * (k * d + options.momentum * b if options.nesterov else b), b, False)


def coupled_curve(lrs: Sequence[float], strength: float, options: Momentum, start: Motion = Motion()) -> list[float]:
    """Return the deviation after each step, relative to the deviation before the first."""
    motion, curve = start, []
    for lr in lrs:
        motion = advance(motion, lr, strength, options)
        curve.append(motion.left / start.left)
    return curve


def solve_coupled_strength(lrs: Sequence[float], shrink: float, options: Momentum, start: Motion = Motion()) -> float:
    """Find eps with coupled_curve(lrs, eps)[-1] = shrink.

    Args:
        lrs: learning rate of every step to come.
        shrink: final deviation over present deviation, above 0; 1 or more needs no pull, and eps = 0.
        options: of the optimizer; without ``weight_decay`` the answer errs on the safe side.
        start: where deviation and momentum stand.

    Raises:
        OptionError: a learning rate below 0, no step with a learning rate above 0, or a shrink that no eps reaches
            at which the deviation does not swing.
    """
    from scipy.optimize import brentq

    largest = max(lrs, default=0.0)
    if not shrink > 0.0:
        raise OptionError(f"the deviation left over must be above 0, not {shrink:g} times the present one.")
    if not 0.0 < largest < math.inf or not min(lrs) >= 0.0:
        raise OptionError(
            f"`lrs` needs learning rates of 0 and more, and one above 0 at least; it has {len(lrs)} steps."
        )

    def surplus(strength: float) -> float:
        # Past the critical point the deviation may be 0 or change its sign; up to it, rounding apart, it does not.
        return math.log(max(coupled_curve(lrs, strength, options, start)[-1], 1e-300)) - math.log(shrink)

    limit = options.critical / largest - options.weight_decay
    if surplus(0.0) <= 0.0:
        return 0.0
    if limit <= 0.0 or surplus(limit) > 0.0:
        raise OptionError(
            f"{len(lrs)} steps with learning rates up to {largest:g} and momentum {options.momentum:g} cannot shrink "
            f"the deviation by {shrink:g}: beyond a strength of {max(limit, 0.0):.3g} it would swing. Train longer, or "
            "ask for a larger deviation."
        )
    return float(brentq(surplus, 0.0, limit, xtol=limit * 1e-14, rtol=1e-13))
