"""The learning rate of every step, known before the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprune.errors import OptionError

if TYPE_CHECKING:
    from torch.optim import Optimizer


def learning_rates(*, lr: float, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0) -> list[float]:
    """The rates at which :func:`fxprune.passes.train.train` takes its steps, one per step.

    Args:
        lr: the largest, reached when the warm-up ends.
        epochs: passes over the data.
        steps_per_epoch: batches of one pass, ``len(data.train)``.
        warmup_epochs: how long the rate rises, in epochs.

    Raises:
        OptionError: no step at all, or a warm-up that leaves none.
    """
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr)
    scheduler = cosine(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch, warmup_epochs=warmup_epochs)
    rates = []
    for step in range(epochs * steps_per_epoch):
        scheduler.step_update(step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def cosine(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_epochs: float) -> Any:
    """Step t of T has the rate ``lr (1 + cos(pi (t - w) / (T - w))) / 2``, and ``lr (t + 1) / (w + 1)`` before w.

    Args:
        optimizer: its own rates are the largest ones.
        epochs: passes over the data.
        steps_per_epoch: batches of one pass.
        warmup_epochs: w, in epochs, rounded to steps.

    Returns:
        timm's scheduler; ``step_update(t)`` comes before step t.

    Raises:
        OptionError: no step at all, or a warm-up that leaves none.
    """
    from timm.scheduler import CosineLRScheduler

    steps = epochs * steps_per_epoch
    warmup = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < steps:
        raise OptionError(
            f"{epochs} epochs of {steps_per_epoch} steps with a warm-up of {warmup_epochs:g} epochs: "
            f"the warm-up must leave at least one of the {max(steps, 0)} steps."
        )
    return CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        warmup_t=warmup,
        # timm would begin at a rate of its own; a step at rate 0 would be lost
        warmup_lr_init=float(optimizer.param_groups[0]["lr"]) / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
