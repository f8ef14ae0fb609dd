"""Two loaders of one's own become data, or what is wrong with them is one sentence."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fxprune.errors import DataError
from fxprune.models_zoo.data import data_from_loaders


def loader(classes=(0, 1, 2, 3), size=(3, 8, 8), batch=2, shuffle=False, names=None, kind=torch.int64):
    """An image of each of these classes."""
    dataset = TensorDataset(torch.zeros(len(classes), *size), torch.tensor(classes, dtype=kind))
    if names is not None:
        dataset.classes = names
    return DataLoader(dataset, batch, shuffle=shuffle)


@pytest.mark.parametrize(
    ("train", "test", "found"),
    [
        ({}, {}, (4, 3, 8, ())),
        ({"size": (1, 28, 28)}, {"size": (1, 28, 28)}, (4, 1, 28, ())),
        ({"shuffle": True}, {"classes": (0, 4, 2, 5)}, (6, 3, 8, ())),  # the last batch has the last class
        ({"classes": (1, 0)}, {"classes": (0, 0), "names": ["cat", "dog"]}, (2, 3, 8, ("cat", "dog"))),
    ],
)
def test_what_two_loaders_say(train, test, found):
    train, test = loader(**train), loader(**test)
    state = torch.get_rng_state()
    data = data_from_loaders(train, test)
    assert (data.num_classes, data.in_chans, data.image_size, data.classes) == found
    assert (data.train, data.test, data.mean, data.std) == (train, test, (0.0,) * found[1], (1.0,) * found[1])
    assert torch.equal(torch.get_rng_state(), state)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 8, 8), 0


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (loader(size=(3, 8, 6)), loader(), "training images are 3x8x6: they must be .* square"),
        (loader(size=(8,)), loader(), "training images are 8: they must be channels x height x width"),
        (loader(), loader(size=(1, 8, 8)), "training images are 3x8x8, test images 1x8x8"),
        (loader(), loader(kind=torch.float32), r"test loader must be .* not \(float32 \[2, 3, 8, 8\], float32 \[2\]\)"),
        (loader(), DataLoader(torch.zeros(4, 3, 8, 8), 2), r"test loader must be .* not float32 \[2, 3, 8, 8\]"),
        ([{"images": 1}], loader(), "training loader must be .* not dict"),
        (loader(), [], "the test loader has no batch"),
        (DataLoader(Endless(), 2), loader(), "the training loader has no length"),
        (loader(), loader(classes=range(40), shuffle=True), "begins with other images each time"),
        (loader(classes=(1, 0)), loader(names=["cat", "dog"]), "has classes up to 3, and names for 0 to 1: name every"),
        (loader(classes=(5, 0)), loader(), "training images have classes 0 to 5, and the test data has 0 to 3"),
        (loader(classes=(-1, 0)), loader(), "training images have classes -1 to 0, and the test data has 0 to 3"),
    ],
)
def test_loaders_that_cannot_be_used(train, test, says):
    with pytest.raises(DataError, match=says):
        data_from_loaders(train, test)
