"""Functions of matrices, and systems of equations."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from .table import A, B, free, image, linear, tokens

with warnings.catch_warnings(action="ignore"):  # PyTorch warns once in a process that another function replaces it
    torch.triangular_solve(torch.ones(1, 1), torch.ones(1, 1))


def _of_matrices(s, y):
    small = y.flatten(2)[..., :16].unflatten(2, (4, 4)) / 9
    made = torch.linalg.matrix_exp(small) + torch.linalg.inv(small + torch.eye(4)) + small.sum(3).diag_embed()
    made = made + torch.linalg.pinv(small) + small.diagonal(dim1=2, dim2=-1)[..., None]
    return y * (made.mean((2, 3)) + torch.linalg.det(small))[:, :, None, None]


def _systems(s, y):
    system = y @ y.mT + torch.eye(y.shape[1], dtype=y.dtype)
    factor = torch.linalg.cholesky(system)
    found = torch.linalg.solve(system, y) + torch.linalg.solve(system, y.mT, left=False).mT
    found = found + torch.cholesky_solve(y, factor) + torch.linalg.solve_triangular(factor, y, upper=False)
    found = (
        found
        + torch.triangular_solve(y, factor, upper=False)[0]
        + torch.linalg.lu_solve(*torch.linalg.lu_factor(system), y)
    )
    return found + torch.linalg.solve(system, y.amax(2))[..., None]


def _system_for_each(s, y):
    system = y.flatten(2)[..., :16].unflatten(2, (4, 4)) / 9 + torch.eye(4)
    found = torch.linalg.solve(system, system[..., :3]).sum((2, 3)) + torch.linalg.solve(system, system[..., 0]).sum(2)
    return y * found[:, :, None, None] * torch.linalg.solve(s.m, system).amax((2, 3))[:, :, None, None]


def _right_for_all(s, y):
    system = y.flatten(2)[..., :16].unflatten(2, (4, 4)) / 9 + torch.eye(4)
    found = torch.linalg.solve(system, s.g).sum(2) + torch.linalg.solve(system, s.h).sum((2, 3))
    return y * found[:, :, None, None]


# fmt: off
image("functions of matrices", _of_matrices, {A: 8, B: 6})
tokens("channels as rows of matrices", lambda s, y: s.c(torch.linalg.matrix_exp(y @ y.mT)), {A: 8, "c.weight": 6},
       out=6, fixed=True, c=linear(5, 6))
tokens("diagonals of channels", lambda s, y: s.c(y.diag_embed().mean(1)), {"c.weight": 6}, out=6, c=linear(8, 6),
       frozen="treated as space")
image("triangle in space", lambda s, y: y.tril() + y.triu(1).triu_(2), {A: 8, B: 6})
tokens("triangle of channels", lambda s, y: s.c(y.tril()).relu(), {"c.weight": 6}, out=6, c=linear(8, 6),
       frozen="treated as space")
tokens("systems of equations, a channel on the right", _systems, {A: 8})
image("a system of equations for each channel", _system_for_each, {A: 8, B: 6}, m=free(4, 4))
tokens("a system of equations of channels", lambda s, y: s.c(torch.linalg.solve(s.m, y, left=False)),
       {"c.weight": 6}, out=6, c=linear(8, 6), m=free(8, 8), frozen="treated as space")
tokens("right-hand sides that vectors may be", lambda s, y: s.c(torch.linalg.solve(y @ y.mT + torch.eye(5), s.g)),
       {A: 8, "c.weight": 6}, out=6, fixed=True, c=linear(10, 6), g=free(5, 10), frozen="vectors at other widths")
tokens("tolerances for each matrix", lambda s, y: s.c(y * torch.linalg.pinv(s.m, rtol=s.t.sigmoid())[:, 0, 0]),
       {"c.weight": 6}, out=6, c=linear(8, 6), m=free(8, 4, 4), t=free(8), frozen="treated as space")
tokens("absolute tolerances for each matrix", lambda s, y: s.c(y * torch.linalg.pinv(s.m, atol=s.t.sigmoid())[:, 0, 0]),
       {"c.weight": 6}, out=6, c=linear(8, 6), m=free(8, 4, 4), t=free(8), frozen="treated as space")
tokens("factors of systems for each right-hand side",
       lambda s, y: s.c(y * torch.triangular_solve(y.mT[..., None], s.m)[1].sum(1).amax()), {"c.weight": 6}, width=2,
       out=6, fixed=True, c=linear(2, 6), m=nn.Parameter(torch.ones(2, 5, 5)), frozen="treated as space")
image("right-hand sides for all channels", _right_for_all, {A: 8, B: 6, "h": 2}, g=free(4), h=free(1, 1, 4, 2))
tokens("right-hand sides as large as the systems", lambda s, y: y + sum(torch.linalg.solve_triangular(
       m, y[0], upper=False).mean(0) for m in (s.m, s.m[:3])), {A: 5}, width=5, fixed=True, m=free(5, 5, 5))
