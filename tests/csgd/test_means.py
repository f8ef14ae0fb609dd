"""Means of many tensors at once are those of each alone, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fxprune.passes.csgd import means
from fxprune.passes.csgd.means import project_each
from fxprune.passes.merge.clusters import on_device, project
from fxprune.plans import Partition


def cut(labels, dim=0):
    labels = np.array(labels)
    _, kept = np.unique(labels, return_index=True)
    return on_device(Partition("w", dim, True, labels, kept), torch.device("cpu"))


FOUR, OTHER, SECOND = cut([0, 0, 1, 1]), cut([0, 1, 0, 1]), cut([0, 1, 1, 0], dim=1)
TENSORS = {
    "a kernel": (torch.randn(4, 3, 3, 3), [FOUR]),
    "a kernel, channels last": (torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last), [FOUR]),
    "a matrix": (torch.randn(4, 5), [FOUR]),
    "a matrix, turned": (torch.randn(5, 4).mT, [FOUR]),
    "a vector": (torch.randn(4), [FOUR]),
    "each second number": (torch.randn(8)[::2], [FOUR]),
    "in float64": (torch.randn(4, 2, dtype=torch.float64), [FOUR]),
    "in bfloat16": (torch.randn(4, 2).bfloat16(), [FOUR]),
    "no columns": (torch.randn(4, 0), [FOUR]),
    "other clusters": (torch.randn(4, 6), [OTHER]),
    "other clusters, too": (torch.randn(4), [OTHER]),
    "another axis": (torch.randn(3, 4, 2), [SECOND]),
    "another axis, channels last": (torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), [SECOND]),
    "both axes": (torch.randn(4, 4, 3), [FOUR, SECOND]),
    "no axis": (torch.randn(4, 4), []),
}


@pytest.mark.parametrize("small", [0, 20, means.SMALL])
def test_each_tensor_has_the_mean_that_it_has_alone(small, monkeypatch):
    monkeypatch.setattr(means, "SMALL", small)
    tensors, cuts = zip(*TENSORS.values(), strict=True)
    for name, mean, tensor, axes in zip(TENSORS, project_each(tensors, cuts), tensors, cuts, strict=True):
        alone = project(tensor, axes)
        assert mean.dtype == alone.dtype and mean.shape == alone.shape, name
        assert torch.equal(mean, alone), name


def test_small_tensors_with_the_same_clusters_are_taken_together(monkeypatch):
    calls = []
    monkeypatch.setattr(means, "spread", lambda x, cuts: calls.append(x.shape[1]) or x.index_select(0, FOUR.cluster))
    monkeypatch.setattr(means, "SMALL", 20)
    project_each([torch.randn(4, 5), torch.randn(4), torch.randn(4, 6), torch.randn(4, 2)], [[FOUR]] * 4)
    assert calls == [5 + 1 + 2]
