"""A task is a loss to train by and a metric to judge by; by default, classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """A loss and a metric, each a function of what the network returns and of the targets.

    Attributes:
        loss: (outputs, targets) of a batch -> a scalar tensor; None: cross entropy.
        metric: (outputs, targets) of all test samples -> a number; or an object with ``reset``, ``update`` and
            ``compute``, as of torchmetrics, which gets them batch by batch; None: the share of samples whose class has
            the largest output.
        higher_is_better: direction of the metric; None: what its attribute of that name says, or True.
        outputs: the outputs that count, see :func:`fxprune.couple`; None: all.
    """

    loss: Callable[[Any, Any], Tensor] | None = None
    metric: Any = None
    higher_is_better: bool | None = None
    outputs: tuple[str, ...] | None = None

    @property
    def classifies(self) -> bool:
        """Tell whether the largest output of a sample is its class."""
        return self.metric is None

    @property
    def name(self) -> str:
        """The name of the metric, as tables show it."""
        if self.metric is None:
            return "accuracy"
        name = str(getattr(self.metric, "__name__", None) or type(self.metric).__name__)
        return "metric" if name == "<lambda>" else name.replace("_", " ")

    @property
    def rises(self) -> bool:
        """Tell whether a larger value of the metric is better."""
        said = self.higher_is_better
        return bool(getattr(self.metric, "higher_is_better", None) is not False if said is None else said)


CLASSIFICATION = Task()
