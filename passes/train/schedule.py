"""The learning rate of every step, known before the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprune.errors import OptionError
from fxprune.passes.options import TrainOptions, short_warmup

if TYPE_CHECKING:
    from torch.optim import Optimizer


def learning_rates(
    *, lr: float, epochs: int, steps_per_epoch: int, options: TrainOptions | None = None, **more: Any
) -> list[float]:
    """Return the rate of every step of :func:`fxprune.passes.train.fit.train`.

    Args:
        lr: the largest, reached when the warm-up ends.
        epochs: passes over the data.
        steps_per_epoch: steps of one pass, see :func:`steps_per_epoch_of`.
        options: the scheduler and its settings.
        **more: or single options of these.

    Raises:
        OptionError: no step at all, a warm-up that leaves none, or a scheduler that this timm does not have.
    """
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr)
    options = options or TrainOptions(**more)
    scheduler = make_scheduler(optimizer, options, epochs=epochs, steps_per_epoch=steps_per_epoch)
    rates = []
    for step in range(epochs * steps_per_epoch):
        scheduler.step_update(step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def steps_per_epoch_of(batches: int, options: TrainOptions) -> int:
    """Return ceil(batches / accumulate): the last step takes the remaining batches."""
    return -(-batches // options.accumulate)


def make_scheduler(optimizer: Optimizer, options: TrainOptions, *, epochs: int, steps_per_epoch: int) -> Any:
    """Make timm's scheduler; step t of a warm-up of w steps has rate ``lr (t + 1) / (w + 1)``.

    After the warm-up of T steps in all, ``cosine`` has ``min_lr + (lr - min_lr) (1 + cos(pi (t - w) / (T - w))) / 2``.
    The schedulers that fall to a final rate do so within the remaining T - w steps. Those with drops count epochs from
    the start, warm-up included.

    Returns:
        timm's scheduler; ``step_update(t)`` comes before step t, and all rates follow from t.

    Raises:
        OptionError: no step at all, a warm-up that leaves none, or a scheduler that this timm does not have.
    """
    from timm.scheduler import create_scheduler_v2

    steps = epochs * steps_per_epoch
    warmup_epochs = short_warmup(epochs) if options.warmup_epochs is None else options.warmup_epochs
    warmup = round(warmup_epochs * steps_per_epoch)
    if not 0 <= warmup < steps:
        raise OptionError(
            f"{epochs} epochs of {steps_per_epoch} steps with a warm-up of {warmup_epochs:g} epochs: "
            f"the warm-up must leave at least one of the {max(steps, 0)} steps."
        )
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            num_epochs=steps - warmup,
            warmup_epochs=warmup,
            # timm would begin at a rate of its own, and a step at rate 0 would be lost
            warmup_lr=float(optimizer.param_groups[0]["lr"]) / (warmup + 1),
            min_lr=options.min_lr,
            # timm counts in steps, so that a warm-up of half an epoch is a whole number, too
            step_on_epochs=False,
            updates_per_epoch=1,
            **_falls(options, steps_per_epoch),
        )
    except ValueError as error:
        raise OptionError(f"scheduler `{options.scheduler}` cannot be made: {error}") from error
    return scheduler


def _falls(options: TrainOptions, steps_per_epoch: int) -> dict[str, Any]:
    """Translate the options of decay into timm's arguments."""
    rate, every = options.decay_rate, options.decay_epochs
    if options.scheduler == "constant":
        return {"sched": "step", "decay_rate": 1.0}
    if options.scheduler == "multistep":
        # timm drops one step before a milestone
        milestones = [round(epoch * steps_per_epoch) + 1 for epoch in options.decay_milestones or ()]
        return {"sched": "multistep", "decay_milestones": milestones, "decay_rate": 0.1 if rate is None else rate}
    if options.scheduler == "step":
        # a whole number of steps, at least one
        steps = max(1, round((30.0 if every is None else every) * steps_per_epoch))
        return {"sched": "step", "decay_epochs": steps, "decay_rate": 0.1 if rate is None else rate}
    falls: dict[str, Any] = {"sched": options.scheduler, "warmup_prefix": True}
    if options.scheduler == "poly":
        return falls | {"decay_rate": 1.0 if rate is None else rate}
    if options.scheduler in ("wsd", "rsqrt"):
        share = 0.2 if every is None else every
        return falls | {"decay_epochs": share if share < 1 else share * steps_per_epoch}
    return falls
