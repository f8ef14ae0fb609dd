"""Batches in memory: their sizes, their order and the shifts of their images."""

from __future__ import annotations

import pytest
import torch
from helpers.image_folder import whole

from fxprune.models_zoo.data import load_data
from fxprune.models_zoo.data.tensor_loader import TensorLoader, shifted

NUMBERED = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 4, False, [3]),
        (3, 4, True, [3]),
        (0, 4, False, []),
        (0, 4, True, []),
    ],
)
def test_batches(count, batch_size, shuffle, sizes):
    loader = TensorLoader(NUMBERED[:count], torch.arange(count), batch_size, shuffle=shuffle)
    assert [len(images) for images, _ in loader] == sizes
    assert len(loader) == len(sizes)


def test_images_keep_their_labels_and_the_test_order():
    images, labels = whole(TensorLoader(NUMBERED, torch.arange(10), 3))
    assert labels.tolist() == list(range(10))
    images, labels = whole(TensorLoader(NUMBERED, torch.arange(10), 5, shuffle=True, shift=1))
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert sorted(labels.tolist()) == list(range(10))


def test_torchs_seed_decides_the_pass():
    loader = load_data("digits", batch_size=64).train
    passes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        passes.append(whole(loader)[0])
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])


def test_shifted_by_a_loop():
    images = torch.rand(50, 2, 5, 6)
    torch.manual_seed(3)
    moved = shifted(images, 2)
    torch.manual_seed(3)
    down, right = torch.randint(5, (2, 50)) - 2
    rows, columns = torch.arange(5), torch.arange(6)
    for n in range(50):
        picked = images[n][:, (rows + down[n]).clamp(0, 4)][:, :, (columns + right[n]).clamp(0, 5)]
        assert torch.equal(moved[n], picked)
    assert {-2, -1, 0, 1, 2} == set(down.tolist()) == set(right.tolist())
