"""Find what a call of a copy changes in the model itself, which a closure holds.

No copy shows what that does to a later call of the model.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.torch_private import pytree

from .attributes import KEEPS
from .contents import contents_of
from .example_values import changed, doubled
from .observation import try_to_observe
from .pair import Pair
from .preservation import preserved


def rewiring_of(model: nn.Module, module: nn.Module | None) -> str:
    """Say that hooks, layers or tensors of a module were changed; empty for None."""
    if module is None:
        return ""
    name = next(name for name, each in model.named_modules() if each is module)
    what = f"`{name}`" if name else f"the {type(module).__name__} itself"
    return f"{KEEPS} changes of the hooks, layers or tensors of {what}, which it makes from outside of it"


def changes_of_itself(pair: Pair, inputs: Inputs, setting: AbstractContextManager[object]) -> str:
    """Name what two calls of a copy change in attributes of the model; empty if nothing."""
    modules = list(pair.model.modules())
    names = {id(module): name for name, module in pair.model.named_modules()}
    for training in (False, True):
        with preserved(pair.model), torch.no_grad(), setting:
            model, states = pair.copy(pair.model).train(training), [contents_of(modules)]
            first = doubled(inputs) if training else inputs
            for given in (first, pytree.tree_map_only(Tensor, changed, first)):
                try_to_observe(model, given)
                states.append(contents_of(modules))
        one, two = ({key for key in b if b[key] != a.get(key)} for a, b in itertools.pairwise(states))
        for owner, name in sorted(one & two):
            return f"{KEEPS} `{'.'.join(filter(None, (names.get(owner, ''), name)))}` from one call to the next"
    return ""
