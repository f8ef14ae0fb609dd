"""What is computed in float64 stays in float64, whatever the network casts to on the way.

Networks that normalise or rotate "in float32 at least" would round to 1e-8 in the middle of a comparison that is to
tell 1e-12 from 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune.common.guards import float64_stands_in
from fxprune.common.modules import map_tensors
from fxprune.common.precision import LOWER, MixingMode, mixed, promoted
from fxprune.common.torch_private import is_mutable, pytree
from fxprune.plan_file import plan_for
from fxprune.plans import Plan


class KeepFloat64(MixingMode):
    """A float64 tensor is never cast to a lower precision; where it meets a lower one, that one is raised.

    Numbers that are computed without it keep their precision: constants that a capture folded are the same ones. A
    network that casts nothing computes exactly what it did.
    """

    def __enter__(self) -> Any:
        """Enter; a network that asks for its precision is told that it has its own."""
        self._stands_in = float64_stands_in()
        self._stands_in.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave."""
        super().__exit__(*error)
        self._stands_in.__exit__(None, None, None)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        floats = {leaf.dtype for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        if torch.float64 in floats:
            if kwargs.get("dtype") in LOWER:
                kwargs["dtype"] = torch.float64
            if mixed(args, kwargs) and not is_mutable(func):
                args, kwargs = promoted(args, kwargs)
        return func(*args, **kwargs)


def in_float64(model: torch.nn.Module, plan: Plan) -> tuple[torch.nn.Module, Plan]:
    """Copy of a network in float64, and the plan on that copy."""
    double = map_tensors(model, lambda _, tensor: to_float64(tensor))
    return double, plan_for(double, plan)


def to_float64(tensor: torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """A copy, so that nothing in-place reaches the caller's tensor; numbers that are no floats keep their kind."""
    device = tensor.device if device is None else device
    return tensor.detach().to(device, torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)
