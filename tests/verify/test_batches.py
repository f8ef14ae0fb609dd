"""Example inputs at other batch sizes."""

from __future__ import annotations

import pytest
import torch

from fxprune.arguments.inputs import batch_of
from fxprune.errors import OptionError
from fxprune.passes.verify.batches import batched_inputs, random_batch, repeat_to

X, IDS, SCALAR = torch.arange(6.0).reshape(3, 2), torch.tensor([7, 7, 9]), torch.tensor(2.5)


@pytest.mark.parametrize(("given", "count"), [(X, 1), ((X, IDS), 2), ([X, SCALAR], 2)])
def test_a_tensor_or_a_tuple(given, count):
    inputs = batched_inputs(given)
    assert len(inputs) == count
    assert batch_of(inputs) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("text", "not only str"),
        (None, "not only NoneType"),
        ((), "an empty tuple"),
        ((X, X[:2]), r"\[3, 2\], \[2, 2\]"),
        (X[:0], r"\[0, 2\]"),
        (SCALAR, "axis 0 is the batch"),
    ],
)
def test_anything_else_is_refused(given, words):
    with pytest.raises(OptionError, match=words):
        batched_inputs(given)


@pytest.mark.parametrize(("batch", "rows"), [(1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 0, 1])])
def test_samples_repeat_in_order(batch, rows):
    x, ids, scalar = repeat_to((X, IDS, SCALAR), batch)
    assert x.equal(X[rows])
    assert ids.equal(IDS[rows])
    assert scalar.equal(SCALAR)


def test_random_inputs_have_the_same_shapes_and_kinds_and_known_indices():
    x, ids, scalar, half, ghost = random_batch((X, IDS, SCALAR, X.half(), IDS.to("meta")), 40, seed=0)
    assert x.shape == (40, 2)
    assert x.unique().numel() == 80
    assert set(ids.tolist()) == {7, 9}
    assert scalar.equal(SCALAR)
    assert half.dtype == torch.float16
    assert not ghost.any()
    assert x.equal(random_batch((X,), 40, seed=0)[0])
    assert not x.equal(random_batch((X,), 40, seed=1)[0])
