"""Count the operations that a call of an ATen operator takes, from sizes of tensors alone."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from fxprune.arguments.inputs import tensors_of
from fxprune.pytorch.torch_private import op_name, packet_of

# Functions of matrices take as many steps for each number as a matrix has rows, some dozen times.
_OF_MATRICES = ("linalg_", "_linalg_", "cholesky", "geqrf", "lu_", "matrix_exp", "ormqr", "orgqr", "triangular_solve")
_OF_PAIRS = ("_cdist_forward", "_euclidean_dist", "_pdist_forward", "_trilinear", "addmv", "addr", "dot", "mv", "vdot")


def work_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Count multiplications and additions, and each number that is read or written.

    It is a lower bound for operators that take many steps for each number and are not known here.
    """
    tensors = tensors_of((args, kwargs, out))
    numbers = sum(x.numel() for x in tensors)
    if count := flop_registry.get(packet_of(func)):
        return numbers + int(count(*args, **kwargs, out_val=out))
    return numbers * _steps(op_name(func).removeprefix("aten::"), args, tensors)


def _steps(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> int:
    """Return the steps that an operator takes for each number."""
    if name.startswith(_OF_MATRICES):
        return 32 * max((min(x.shape[-2:]) for x in tensors if x.dim() > 1), default=1)
    if name.startswith(_OF_PAIRS):
        return max((x.shape[-1] for x in tensors if x.dim()), default=1)
    if "pool" in name and len(args) > 1 and isinstance(args[1], (tuple, list)):  # a window, or sizes of the result
        return max(1, math.prod(size for size in args[1] if isinstance(size, int)))
    return 1
