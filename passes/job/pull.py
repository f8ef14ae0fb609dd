"""What it takes to shrink the deviation of a cluster in one training, before there is an optimizer that could tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from fxprune.passes.csgd import Momentum, check_coupled, momentum_of, solve_coupled_strength, solve_strength
from fxprune.passes.options import TrainOptions
from fxprune.passes.train import make_optimizer


@dataclass(frozen=True)
class Pull:
    """Decoupled, or inside the momentum of SGD; weight decay is left out, so that the answer errs on the safe side.

    Attributes:
        momentum: of SGD where the pull goes through it; None: decoupled.
    """

    momentum: Momentum | None = None

    def solve(self, lrs: Sequence[float], shrink: float) -> float:
        """Strength that leaves ``shrink`` of the deviation.

        Raises:
            OptionError: none does.
        """
        if self.momentum is None:
            return solve_strength(lrs, shrink)
        return solve_coupled_strength(lrs, shrink, self.momentum)


def pull_of(options: TrainOptions, *, coupled: bool) -> Pull:
    """The law in a training with these options.

    Raises:
        OptionError: the coupled form does not go with this optimizer.
    """
    if not coupled:
        return Pull()
    optimizer = make_optimizer(nn.Linear(2, 2), options, lr=0.1)
    check_coupled(optimizer)
    return Pull(replace(momentum_of(optimizer.param_groups[0]), weight_decay=0.0))
