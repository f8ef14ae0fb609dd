"""Ridge regression finds the change of a matrix that brings its output nearest to a target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Penalties tried, in units of the mean square of a feature; where none helps on the inputs held back, nothing changes.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(eq=False)
class Normal:
    """Sums of z z^T, z r^T and r^2 over samples of features z and what is missing r, by group.

    Attributes:
        square: float64 [g, features, features].
        cross: float64 [g, features, outputs].
        missing: sum of r^2.
        wanted: sum of the squares of the whole wanted output.
        count: samples.
    """

    square: Tensor
    cross: Tensor
    missing: float = 0.0
    wanted: float = 0.0
    count: int = 0

    @classmethod
    def zeros(cls, groups: int, features: int, outputs: int, device: torch.device) -> Normal:
        """Make empty sums."""
        square = torch.zeros(groups, features, features, dtype=torch.float64, device=device)
        return cls(square, torch.zeros(groups, features, outputs, dtype=torch.float64, device=device))

    def add(self, z: Tensor, r: Tensor, wanted: float) -> None:
        """Add samples: z [g, samples, features] and r [g, samples, outputs]."""
        kind = torch.promote_types(z.dtype, torch.float32)
        z, r = z.to(kind), r.to(kind)
        self.square += (z.transpose(1, 2) @ z).double()
        self.cross += (z.transpose(1, 2) @ r).double()
        self.missing += float(r.double().square().sum())
        self.wanted += wanted
        self.count += z.shape[1]

    def after(self, change: Tensor) -> float:
        """Return the sum of r^2 after a change [g, features, outputs] of the matrix."""
        gain = 2 * (change * self.cross).sum() - (change * (self.square @ change)).sum()
        return self.missing - float(gain)


def best_change(fit: Normal, held: Normal | None, *, intercept: bool) -> tuple[Tensor, float] | None:
    """Find the change of a matrix that leaves least missing on the inputs held back.

    Args:
        fit: sums over the inputs to estimate from.
        held: over those held back; None: there are none, and the largest penalty is taken.
        intercept: the last feature is 1, which is not penalised.

    Returns:
        The change [g, features, outputs] and the penalty; None if none leaves less missing than before.
    """
    if fit.missing <= 1e-12 * fit.wanted:
        return None
    features = fit.square.shape[1]
    diagonal = fit.square.diagonal(dim1=1, dim2=2)
    free = features - 1 if intercept else features
    scale = diagonal[:, :free].mean(1) if free else diagonal.mean(1)
    found: tuple[Tensor, float] | None = None
    least = (held or fit).missing * (1 - 1e-6)
    for penalty in PENALTIES if held is not None else PENALTIES[-1:]:
        ridge = torch.zeros_like(diagonal)
        ridge[:, :free] = (penalty * scale + 1e-300)[:, None]
        if intercept:
            ridge[:, -1] = 1e-9 * fit.count
        factor, failed = torch.linalg.cholesky_ex(fit.square + torch.diag_embed(ridge))
        if failed.any():
            continue
        change = torch.cholesky_solve(fit.cross, factor)
        left = (held or fit).after(change)
        if left < least and bool(torch.isfinite(change).all()):
            least, found = left, (change, penalty)
    return found
