"""Check before any training that networks take the batches of the test samples."""

from __future__ import annotations

from torch import nn

from fxprune.arguments.batches import ANY_BATCH, BatchRange
from fxprune.common.progress import phase
from fxprune.common.text import count
from fxprune.errors import DataError
from fxprune.models_zoo.data import Loader, samples_in
from fxprune.passes.rewrite import narrow_batches
from fxprune.plans import Plan


def check_batches(bound: BatchRange, test: Loader) -> None:
    """Raise DataError if the narrow network will not take a batch of the test samples.

    Args:
        bound: the batch sizes that the network takes.
        test: is read once, unless the network takes every batch.
    """
    # Where inputs share no size, a later check says so.
    sizes = () if bound == ANY_BATCH or not bound.known else (samples_in(inputs) for inputs, _ in test)
    for number, size in enumerate(sizes, 1):
        if not bound.holds(size):
            raise DataError(
                f"test batch {number} of {len(test)} has {count(size, 'sample')}, and the network takes a batch of "
                f"{bound}, since {bound.why}: choose another `batch_size`, which leaves no such rest, or leave "
                "samples out."
            )


def check_narrow(plan: Plan, model: nn.Module, test: Loader) -> None:
    """Check the test samples where guards bind the batch of the narrow network further.

    Raises:
        DataError: it will not take one of them.
    """
    bound = narrow_batches(plan, model)
    if bound != plan.coupling.batch:
        phase("batch", f"{bound} in the narrow network, since {bound.why}")
        check_batches(bound, test)
