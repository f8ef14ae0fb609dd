"""Two loaders become data: each batch is inputs and targets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxprune.errors import DataError
from fxprune.models_zoo.data.pairs import Pairs, data_from_pairs

A, B, T = (torch.zeros(2, n) for n in (1, 2, 3))
DIVIDED = {
    "a pair": ((A, T), A, T),
    "a list": ([A, T], A, T),
    "inputs in a tuple": (((A, B), T), (A, B), T),
    "several inputs": ((A, B, T), (A, B), T),
    "a dict": ({"image": A, "mask": T}, {"image": A}, {"mask": T}),
    "labels that forward takes": ({"image": A, "labels": T}, {"image": A}, {"labels": T}),
    "targets of several names": ({"image": A, "x": B, "target_box": T}, {"image": A}, {"x": B, "target_box": T}),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_a_batch_is_inputs_and_targets(case):
    batch, inputs, targets = DIVIDED[case]
    ((found, judged),) = Pairs([batch], ["image", "labels", "target_box"], "test")
    assert str(found) == str(inputs)
    assert str(judged) == str(targets)


class Judged(nn.Module):
    """A network that may take labels."""

    def forward(self, image, labels=None):
        return image


REFUSED = {
    "a tensor": ([A], "must be a pair of inputs and targets"),
    "no input": ([{"pixels": A}], r"has the entries pixels, and the network takes image"),
    "empty": ([], "has no batch"),
    "endless": (iter([(A, T)]), "has no length"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_batches_are_refused(case):
    loader, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        data_from_pairs(loader, loader, Judged())
