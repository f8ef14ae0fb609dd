"""Compare calls at other batches, which a network may keep something of."""

from __future__ import annotations

from torch import nn

from fxprune.arguments.inputs import Inputs

from .example_values import doubled
from .observation import compare, try_to_observe


def difference_at_other_batches(model: nn.Module, module: nn.Module, first: Inputs) -> str:
    """Call both on the example, twice the samples, and the example; return the first difference.

    A guard may refuse a batch, and so may the model. Both keep what they keep.
    """
    for inputs in (first, doubled(first), first):
        wanted, found = try_to_observe(model, inputs), try_to_observe(module, inputs)
        if isinstance(wanted, str) or isinstance(found, str):
            continue
        wanted.state, found.state = {}, {}  # a cache is allowed, if the next call finds in it what it would compute
        if why := compare(wanted, found):
            return f"after a call at another batch, {why}"
    return ""
