"""Guard the modes in which a graph would not compute what its model computes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.equivalence import Mode


def guard_modes(module: fx.GraphModule, modes: Iterable[Mode]) -> None:
    """Make a graph raise an error in modes in which its model does something else."""
    for name, args in [question for mode in modes for question in mode.questions]:
        with module.graph.inserting_before(next(iter(module.graph.nodes))):
            answer = module.graph.call_function(getattr(torch, name), args)
        with module.graph.inserting_after(answer):
            asked = f"`torch.{name}({', '.join(map(repr, args))})`, on which the model depends,"
            module.graph.call_function(guard_equal, (answer, False, asked))
        module.recompile()
