"""Keep a float64 computation in float64, even if the network casts to lower precision.

Networks that normalise or rotate "in float32 at least" would round to 1e-8 within a comparison that must distinguish
1e-12 from 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxprune.arguments.guards import float64_stands_in
from fxprune.pytorch.modules import map_tensors
from fxprune.pytorch.precision import DOUBLE, DOUBLED, MixingMode, dtypes_of, promoted, to_float64
from fxprune.pytorch.torch_private import is_mutable


class KeepFloat64(MixingMode):
    """Never cast a float64 tensor to a lower precision; promote tensors that meet one.

    Calls without a float64 tensor keep their precision, so that they give the same constants as the capture did. A
    network that casts nothing computes exactly the same as before.
    """

    def __enter__(self) -> Any:
        """Enter the mode; the dtype guards of a captured graph then accept float64."""
        self._stands_in = float64_stands_in()
        self._stands_in.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave the mode."""
        super().__exit__(*error)
        self._stands_in.__exit__(None, None, None)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        found = dtypes_of((*args, *kwargs.values()))
        if not found.isdisjoint(DOUBLE):
            if (dtype := kwargs.get("dtype")) in DOUBLED:
                kwargs["dtype"] = DOUBLED[dtype]
            if not found.isdisjoint(DOUBLED) and not is_mutable(func):
                args, kwargs = promoted(args, kwargs)
        return func(*args, **kwargs)


def float64_reader(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Copy a model in float64 that only runs, in eval mode.

    It shares parameters that are float64 already. Constants that a capture recorded keep their precision, since the
    code of the model makes them in this precision, too.
    """

    def converted(name: str, tensor: torch.Tensor) -> torch.Tensor:
        target = tensor.device if device is None else device
        if name.rpartition(".")[2].startswith("_tensor_constant"):  # so torch.fx calls them
            return tensor.detach().to(target, copy=True)
        shared = isinstance(tensor, nn.Parameter) and tensor.dtype == torch.float64
        return tensor.detach().to(target) if shared else to_float64(tensor, target)

    return map_tensors(model, converted, only_runs=True).eval()
