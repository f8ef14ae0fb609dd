"""Parts of several processes are the batches of one, however these are read."""

from __future__ import annotations

import pytest
import torch
from timm.data import Mixup
from torch.utils.data import DataLoader, TensorDataset

from fxprune.common.random import seeded
from fxprune.errors import OptionError
from fxprune.models_zoo.data.tensor_loader import TensorLoader
from fxprune.passes.distributed.ranks import ALONE, Ranks
from fxprune.passes.distributed.sharding import local_batches, local_samples

IMAGES, LABELS = torch.arange(26.0).view(26, 1, 1, 1), torch.arange(26)


@pytest.mark.parametrize(("total", "count"), [(8, 2), (10, 2), (9, 2), (12, 3), (64, 3), (4, 2), (16, 8), (7, 1)])
def test_parts_are_disjoint_complete_and_closed_under_what_mixup_pairs(total, count):
    each = [local_samples(total, Ranks(rank, count)) for rank in range(count)]
    assert sorted(row for part in each for row in part) == list(range(total))
    for part in each:
        assert part
        assert part == sorted(total - 1 - row for row in part)
    assert max(map(len, each)) - min(map(len, each)) <= 2


LOADERS = {
    "in memory, to train": lambda: TensorLoader(IMAGES, LABELS, 8, shuffle=True),
    "in memory, to test": lambda: TensorLoader(IMAGES, LABELS, 8),
    "torch, to train": lambda: DataLoader(TensorDataset(IMAGES, LABELS), 8, shuffle=True, drop_last=True),
    "torch, read by a worker": lambda: DataLoader(
        TensorDataset(IMAGES, LABELS), 8, shuffle=True, drop_last=True, num_workers=1
    ),
    "torch, to test": lambda: DataLoader(TensorDataset(IMAGES, LABELS), 8),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", LOADERS)
def test_parts_make_up_the_batches_of_one_process(kind, count):
    read = []
    for rank in range(count):
        with seeded(3):
            read.append([*local_batches(LOADERS[kind](), Ranks(rank, count), every=False)])
    with seeded(3):
        whole = [*local_batches(LOADERS[kind](), ALONE)]
    seen = [label for part in whole for label in part.labels.tolist()]
    ours = [label for each in read for part in each for label in part.labels.tolist()]
    assert sorted(ours) == sorted(seen)
    for batch, *each in zip(whole, *read, strict=False):
        assert {part.total for part in each} == {len(batch.labels)}
        for rank, part in enumerate(each):
            assert part.labels.tolist() == batch.labels[local_samples(len(batch.labels), Ranks(rank, count))].tolist()


def test_torch_reads_only_what_is_its_own():
    class Counting(TensorDataset):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    images = Counting(IMAGES, LABELS)
    assert len([*local_batches(DataLoader(images, 13), Ranks(1, 2))]) == 2
    assert images.read == 14


def test_mixing_parts_is_mixing_the_batch():
    images = torch.randn(12, 1, 8, 8)
    for options in ({"mixup_alpha": 0.5}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}):
        mixed = []
        for chosen in (range(12), local_samples(12, Ranks(0, 2)), local_samples(12, Ranks(1, 2))):
            with seeded(0):
                mix = Mixup(**options, num_classes=12, label_smoothing=0.0)
                mixed.append((chosen, *mix(images[chosen].clone(), torch.arange(12)[chosen])))
        for chosen, ours, targets in mixed[1:]:
            assert torch.equal(ours, mixed[0][1][chosen])
            assert torch.equal(targets, mixed[0][2][chosen])


def test_a_batch_too_small_to_share_is_refused():
    with pytest.raises(OptionError, match=r"a batch of 5 images cannot be trained on by 3 processes.*`batch_size` co"):
        next(local_batches(TensorLoader(IMAGES, LABELS, 5), Ranks(0, 3)))
