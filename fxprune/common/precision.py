"""A network in float64 may make numbers of its own in float32: where a function refuses to mix them, both are float64.

Coordinates are made so, ``grid.float()``. PyTorch promotes them in a sum, but not in a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxprune.common.torch_private import TorchDispatchMode, pytree
from fxprune.errors import OptionError

LOWER = (torch.float32, torch.float16, torch.bfloat16)


class PromoteMixed(TorchFunctionMode):
    """What a function refuses for its precisions, it is given in float64; all else is as it was."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            # A function that writes to its argument must not write to a copy.
            writes = func.__name__.endswith("_") or "out" in kwargs
            if writes or not mixed(args, kwargs):
                raise
            args, kwargs = promoted(args, kwargs)
            return func(*args, **kwargs)


class MixingMode(TorchDispatchMode):
    """A mode for operators with :class:`PromoteMixed` inside: functions refuse before an operator is called."""

    def __enter__(self) -> Any:
        """Enter both."""
        self._promoting = PromoteMixed()
        self._promoting.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Leave both."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._promoting.__exit__(*error)  # type: ignore[no-untyped-call]


def mixed(args: Any, kwargs: Any) -> bool:
    """Whether there is a float64 tensor among the arguments and one of a lower precision."""
    floats = {leaf.dtype for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    return torch.float64 in floats and not floats.isdisjoint(LOWER)


def promoted(args: Any, kwargs: Any) -> Any:
    """The arguments in float64."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.double() if x.dtype in LOWER else x, (args, kwargs))


def check_precision(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise OptionError where weights themselves have fewer bits than float32: they provably do not converge.

    A pull moves a weight by lr * eps of its deviation d. With 8 bits of precision it is rounded away as soon as it is
    below 2^-9 of the weight: clusters stop at a relative deviation of 2^-9 / (lr * eps), whatever the number of steps.

    Args:
        parameters: with their names.
    """
    for name, parameter in parameters:
        bits = torch.finfo(parameter.dtype).bits if parameter.is_floating_point() else 32
        if bits < 32:
            kind = str(parameter.dtype).removeprefix("torch.")
            amp = kind if kind in ("bfloat16", "float16") else "bfloat16"
            raise OptionError(
                f"`{name}` is {kind}: weights of {bits} bits provably do not converge, since a small step is rounded "
                f"away. Convert the network to float32, and compute in 16 bits with amp='{amp}', or, in a loop of your "
                f"own, under torch.autocast."
            )
