"""A function with an assertion, which pytest does not write anew here as it does in tests."""

from __future__ import annotations

from torch import Tensor


def finite(y: Tensor) -> Tensor:
    """Return a tensor whose numbers are finite and at most 9."""
    assert y.isfinite().all() and not (y > 9).any(), "too large"
    return y
