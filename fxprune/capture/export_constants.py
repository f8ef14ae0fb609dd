"""An export knows the one number in a constant, also after a write through a view of it.

Code that asks for it then would get the number of before, for every batch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import fx

from fxprune.pytorch.torch_private import KNOW_CONSTANTS, MOST_KNOWN, OpOverload, is_mutable, makes_storage, op_name


def writes_to_constants(graph: fx.Graph) -> bool:
    """Tell whether a model writes into a tensor that it makes of plain numbers."""
    waiting = graph.find_nodes(op="call_function", target=torch.ops.aten.lift_fresh_copy.default)
    for made in waiting:
        for user in made.users:
            if not isinstance(user.target, OpOverload) or makes_storage(user.target):
                continue
            if is_mutable(user.target) and op_name(user.target) != "aten::detach_":
                return True
            waiting.append(user)
    return False


@contextlib.contextmanager
def constants_unknown() -> Iterator[None]:
    """Let an export inside the block fail where it would need the number in a constant."""
    holders = [sys.modules[name] for name in KNOW_CONSTANTS]
    before = [getattr(holder, MOST_KNOWN) for holder in holders]
    for holder in holders:
        setattr(holder, MOST_KNOWN, 0)
    try:
        yield
    finally:
        for holder, most in zip(holders, before, strict=True):
            setattr(holder, MOST_KNOWN, most)
