"""Rules for functions of matrices: a matrix is on the last two axes, in front is a batch."""

from __future__ import annotations

import torch

from ..call import Call
from ..channels import Axes, Ids
from ..labels import tensors_in
from ..operation import unlabelled
from .pointwise import meet_axis
from .registry import rule
from .uniformity import moved

_AS_SPACE = "an axis with channels is treated as space"


@rule(
    "triu", "triu_", "tril", "tril_", "linalg_matrix_exp", "linalg_inv_ex", "linalg_cholesky_ex", "cholesky_inverse",
    "_linalg_det", "_linalg_slogdet", "_linalg_svd", "_linalg_eigh", "_linalg_eigvals", "linalg_eig", "linalg_qr",
    "linalg_lu_factor_ex", "linalg_matrix_sqrth", "linalg_pinv",
)  # fmt: skip
def matrices(call: Call) -> list[Axes]:
    """A function of each matrix by itself: channels on the last two axes freeze, others pass.

    Where each matrix has a tolerance of its own, all freeze.
    """
    *lead, rows, columns = call.axes(call.args[0])
    call.freeze(_AS_SPACE, rows, columns)
    for tolerance in tensors_in(call.args[1:]):
        call.freeze(_AS_SPACE, *(lead if tolerance.numel() > 1 else ()), *call.axes(tolerance))
    return [(*lead, *(None for _ in range(out.dim() - len(lead)))) for out in call.outs]


@rule(
    "_linalg_solve_ex", "linalg_solve_triangular", "triangular_solve", "cholesky_solve", "linalg_lu_solve",
    "linalg_ldl_solve",
)  # fmt: skip
def solved(call: Call) -> list[Axes]:
    """``A x = b``: each right-hand side has a solution of its own; the axes of ``A`` freeze.

    On axes of a batch, systems and right-hand sides meet. Where these have one axis less, PyTorch takes them for
    vectors if their sizes are those of the systems but for the last one: as that depends on widths, channels freeze.
    """
    right, systems, own = _sides(call)
    end, matrix = right.dim() - 1 - len(own), systems[0].dim() - 2  # how many axes of a batch
    call.freeze(_AS_SPACE, *(ids for dim, ids in enumerate(call.axes(right)) if dim >= end and dim not in own))
    call.freeze(_AS_SPACE, *(ids for x in systems for ids in call.axes(x)[matrix:]))
    lead = [
        _meet_longest(call, [(right, end - behind), *((x, matrix - behind) for x in systems)])
        for behind in range(max(end, matrix), 0, -1)
    ]
    if call.name == "_linalg_solve_ex" and own and right.dim() == systems[0].dim() - 1:
        call.freeze("right-hand sides that are vectors at other widths", *lead, call.axes(right)[own[0]])
    solution = [ids if dim in own else None for dim, ids in enumerate(call.axes(right)) if dim >= end]
    return [(*lead, *solution), *(_factors(call, systems[0], out) for out in call.outs[1:])]


def _sides(call: Call) -> tuple[torch.Tensor, list[torch.Tensor], list[int]]:
    """Return the right-hand sides, the systems, and the axis of several sides, if there is one."""
    right = call.named("B") if call.named("B") is not None else call.args[0]
    systems = [x for x in tensors_in(call.args) if x is not right]
    if right.dim() == 1 or (call.name == "_linalg_solve_ex" and right.shape == systems[0].shape[:-1]):
        return right, systems, []
    return right, systems, [right.dim() - 1 if call.named("left") is not False else right.dim() - 2]


def _meet_longest(call: Call, here: list[tuple[torch.Tensor, int]]) -> Ids | None:
    """Unite the ids on axes that meet, where they exist and are not broadcast."""
    sizes = [x.shape[dim] for x, dim in here if dim >= 0]
    return meet_axis(call, [(x, dim) for x, dim in here if dim >= 0 and x.shape[dim] == max(sizes)])


def _factors(call: Call, system: torch.Tensor, out: torch.Tensor) -> Axes:
    """Return the axes of what an operator returns of its systems: their factors."""
    lead = call.axes(system)[: system.dim() - 2]
    if out.dim() > system.dim() or out.shape[: len(lead)] != system.shape[: len(lead)]:
        call.freeze(_AS_SPACE, *lead)
        return unlabelled(out)
    return (*lead, *[None] * (out.dim() - len(lead)))


@rule("diagonal", keeps_parameters=True, uniform=moved)
def diagonal(call: Call) -> Axes:
    """``[..., n, n] -> [..., n]``: channels on the two axes freeze, others pass."""
    axes = call.axes(call.args[0])
    dims = [dim % max(len(axes), 1) for dim in call.args[2:4]]
    call.freeze(_AS_SPACE, *(axes[dim] for dim in dims))
    return (*(ids for dim, ids in enumerate(axes) if dim not in dims), None)


@rule("_linalg_check_errors")
def checked(call: Call) -> list[Axes]:
    """An error in any channel is one without its duplicates, too."""
    return []


@rule("diag_embed")
def diagonals(call: Call) -> Axes:
    """``[..., n] -> [..., n, n]``: channels on the last axis freeze, others pass."""
    *lead, last = call.axes(call.args[0])
    call.freeze(_AS_SPACE, last)
    dims = sorted(dim % call.out.dim() for dim in call.args[2:4])
    for dim in dims:
        lead.insert(dim, None)
    return tuple(lead)
