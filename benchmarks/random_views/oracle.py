"""Compare a narrow network of views with the snapped one at many other sizes of images."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import fxprune
from benchmarks.random_networks import TOLERANCE, Wrong, random_plan
from fxprune.arguments.guards import SpecialisedError
from fxprune.errors import CaptureError, FxpruneError, UnequalClustersWarning
from fxprune.passes.merge import snap
from fxprune.passes.rewrite import narrow
from fxprune.passes.verify import randomised, relative_error

from .network import ViewNetwork


def compared(drawn: ViewNetwork, seed: int) -> Counter[str]:
    """Narrow a network by a random plan, and count what it does at each size.

    Sizes that the wide network does not take are left out of the comparison.

    Returns:
        Counts of networks that were ``refused`` or ``frozen``, and of sizes at which the narrow one was ``equal``,
        ``guarded``, or ``broken`` by an error of PyTorch's own.

    Raises:
        Wrong: the narrow network computes something else.
    """
    subject = randomised(drawn, seed=seed).double().eval()
    try:
        coupling = fxprune.couple(subject, _images(drawn.shape, seed))
    except CaptureError:
        return Counter(refused=1)
    if not coupling.groups:
        return Counter(frozen=1)
    plan = random_plan(coupling, seed)
    snapped = snap(subject, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnequalClustersWarning)  # random rows are merged
        small = narrow(subject, plan)
    return Counter(_outcome(snapped, small, _images(shape, seed + at)) for at, shape in enumerate(_shapes(drawn)))


@torch.no_grad()
def _outcome(snapped: nn.Module, small: nn.Module, x: Tensor) -> str:
    try:
        wanted = snapped(x.clone())
    except (RuntimeError, IndexError, ValueError):  # the network does not take this size
        return "not taken"
    try:
        got = small(x.clone())
    except (SpecialisedError, FxpruneError):
        return "guarded"
    except (RuntimeError, IndexError, ValueError):
        return "broken"
    if wanted.shape != got.shape:
        raise Wrong(f"at {tuple(x.shape)}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
    if wanted.numel() and wanted.isfinite().all() and not (error := relative_error(wanted, got)) <= TOLERANCE:
        raise Wrong(f"at {tuple(x.shape)}: differs by {error:.1e}")
    return "equal"


def _images(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _shapes(drawn: ViewNetwork) -> Iterator[tuple[int, int, int, int]]:
    """Yield the example's shape, others near it and of its length, multiples, and small ones."""
    batch, channels, height, width = drawn.shape
    yield drawn.shape
    yield batch, channels, width, height
    yield batch, channels, height + 1, max(width - 1, 1)
    yield batch, channels, max(height - 1, 1), width + 1
    yield height, channels, batch, width
    for more in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)):
        yield batch + more[0], channels, height + more[1], width + more[2]
    for times in ((1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 3, 3), (2, 2, 1), (2, 1, 1)):
        yield batch * times[0], channels, height * times[1], width * times[2]
    for small in ((1, height, width), (2, 2, 8), (2, 4, 8), (2, 6, 4), (4, 4, 4), (6, 6, 6), (1, 3, 1)):
        yield small[0], channels, *small[1:]
