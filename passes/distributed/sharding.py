"""Each process reads its part of every batch; the batches are those of a single process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from fxprune.errors import OptionError
from fxprune.models_zoo.data import samples_in
from fxprune.pytorch.torch_private import pytree

from .ranks import Ranks

if TYPE_CHECKING:
    from fxprune.models_zoo.data import Loader


class LocalBatch(NamedTuple):
    """This process's part of a batch.

    Attributes:
        images: [own, C, H, W], or other inputs of a task.
        labels: [own], or other targets.
        total: number of images in the whole batch.
    """

    images: Any
    labels: Any
    total: int


def local_samples(total: int, ranks: Ranks) -> list[int]:
    """List this process's part of a batch, ascending; sample i comes with ``total - 1 - i``.

    timm mixes the first image with the last, the second with the last but one, so each mixed pair is in one process.
    """
    pairs = -(-total // 2)
    near = range(pairs * ranks.rank // ranks.count, pairs * (ranks.rank + 1) // ranks.count)
    return sorted({*near, *(total - 1 - i for i in near)})


def local_batches(loader: Loader, ranks: Ranks, *, every: bool = True) -> Iterator[LocalBatch]:
    """Yield this process's part of each batch of one pass.

    All processes must have the same seed. A torch ``DataLoader`` reads only these images; with any other loader, each
    process reads everything.

    Args:
        loader: gives the batches of all processes together.
        ranks: which process this is.
        every: require a part of each batch for each process; otherwise empty parts are skipped.

    Raises:
        OptionError: a batch is too small to give each process a part.
    """
    if ranks.count == 1:
        for images, labels in loader:
            yield LocalBatch(images, labels, samples_in(images))
        return
    own = _reading(loader, ranks)
    if own is None:
        for images, labels in loader:
            total = samples_in(images)
            chosen = torch.tensor(local_samples(total, ranks), dtype=torch.int64)
            if _is_usable(total, ranks, every):
                yield LocalBatch(_rows_of(images, chosen, total), _rows_of(labels, chosen, total), total)
        return
    sizes = [size for size in _sizes(own.batch_sampler.batches) if _is_usable(size, ranks, every)]
    for (images, labels), size in zip(own, sizes, strict=True):
        yield LocalBatch(images, labels, size)


def _rows_of(batch: Any, chosen: Tensor, total: int) -> Any:
    """Take rows of every tensor that has one for each sample."""
    return pytree.tree_map_only(Tensor, lambda x: x[chosen] if x.dim() and len(x) == total else x, batch)


def _is_usable(total: int, ranks: Ranks, every: bool) -> bool:
    if every and total < 2 * ranks.count:
        raise OptionError(
            f"a batch of {total} images cannot be trained on by {ranks.count} processes: each needs two. "
            "`batch_size` counts the images of all processes together."
        )
    return bool(local_samples(total, ranks))


class _OwnSamples:
    """A batch sampler that yields this process's samples of each batch."""

    def __init__(self, batches: BatchSampler, ranks: Ranks) -> None:
        self.batches, self._ranks = batches, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            if chosen := local_samples(len(batch), self._ranks):
                yield [batch[row] for row in chosen]

    def __len__(self) -> int:
        return len(self.batches)


def _reading(loader: Any, ranks: Ranks) -> Any:
    """Make the same loader for this process's images only; None for an unknown loader class."""
    if type(loader) is not DataLoader or type(loader.batch_sampler) is not BatchSampler:
        return None
    # Take one number from the global stream, as the loader does for its workers; each rank augments differently.
    seed = int(torch.empty((), dtype=torch.int64).random_()) if loader.generator is None else loader.generator.seed()
    return DataLoader(
        loader.dataset,
        batch_sampler=_OwnSamples(loader.batch_sampler, ranks),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        generator=torch.Generator().manual_seed((seed + ranks.rank) % 2**63),
    )


def _sizes(sampler: BatchSampler) -> list[int]:
    full, rest = divmod(len(sampler.sampler), sampler.batch_size)  # type: ignore[arg-type]
    return [sampler.batch_size] * full + [rest] * bool(rest and not sampler.drop_last)
