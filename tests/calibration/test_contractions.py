"""An observed operation is features times a matrix: predicted from sampled features, and changed through them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxprune.passes.calibration import Observer
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import storage_id

# Sums of some hundred float64 terms, in another order.
CLOSE = 1e-12

LAYERS = {
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (3, 4, 7, 9)),
    "strided": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2)), (3, 4, 7, 9)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=2), (3, 4, 7, 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (3, 4, 7, 9)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (3, 4, 7, 9)),
    "in one dimension": (lambda: nn.Conv1d(4, 6, 5, stride=2), (3, 4, 17)),
    "in three dimensions": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=1), (2, 2, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (3, 4, 5, 6)),
    "transposed, strided": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, padding=1, output_padding=1), (3, 4, 5, 6)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), groups=2, dilation=2), (3, 4, 5, 6)),
    "linear": (lambda: nn.Linear(5, 6), (3, 5)),
    "linear on tokens": (lambda: nn.Linear(5, 6), (3, 4, 5)),
    "linear without bias": (lambda: nn.Linear(5, 6, bias=False), (3, 4, 5)),
    "a weight on the left": (lambda: Left(), (5, 7)),
    "channels last": (lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (3, 4, 7, 9)),
}


class Left(nn.Module):
    """weight @ x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        return self.weight @ x


def seen_in(layer, x):
    observer = Observer({storage_id(tensor): name for name, tensor in named_tensors(layer)})
    with torch.no_grad(), observer:
        out = layer(x)
    (found,) = observer.seen
    return found, out


def made(name):
    make, size = LAYERS[name]
    layer = make().double()
    x = torch.randn(size, dtype=torch.float64)
    return layer, x.contiguous(memory_format=torch.channels_last) if name == "channels last" else x


@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_linear_in_the_features(name):
    """What is added to the matrix moves the output by features times what was added."""
    layer, x = made(name)
    found, before = seen_in(layer, x)
    before = before.clone()
    features, _ = found.sample(found.out, 10**6, torch.Generator())
    outputs = found.rows(found.out).shape[1] // found.groups
    assert features.shape[0] == found.groups and features.shape[2] == found.features
    change = torch.randn(found.groups, found.features, outputs, dtype=torch.float64)
    with torch.no_grad():
        found.add(change)
        moved = layer(x) - before
    rows = found.rows(moved.reshape(found.out.shape))
    predicted = (features @ change).transpose(0, 1).reshape(rows.shape)
    torch.testing.assert_close(rows, predicted, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", LAYERS)
def test_an_operation_in_inference_mode_is_observed(name):
    """There, PyTorch hands modes some operators whole that are made of others elsewhere."""
    layer, x = made(name)
    found, _ = seen_in(layer, x)
    with torch.inference_mode():
        inside, out = seen_in(layer, x)
    assert inside.weight.data_ptr() == found.weight.data_ptr() and inside.features == found.features
    torch.testing.assert_close(inside.out, found.out, rtol=0, atol=0)
    assert inside.out.data_ptr() == out.data_ptr()


def test_samples_are_rows_of_the_whole():
    layer, x = made("strided")
    found, _ = seen_in(layer, x)
    every, _ = found.sample(found.out, 10**6, torch.Generator())
    some, values = found.sample(found.out, 5, torch.Generator().manual_seed(3))
    assert some.shape[1] == 5
    for row, value in zip(some[0], values[0], strict=True):
        (place,) = (every[0] == row).all(1).nonzero()[:1].flatten()
        torch.testing.assert_close(found.rows(found.out)[place], value, rtol=0, atol=0)


def test_a_matrix_of_no_weight_is_not_observed():
    class Computed(nn.Linear):
        def forward(self, x):
            return x @ (2 * self.weight).t()

    layer = Computed(5, 6)
    observer = Observer({storage_id(tensor): name for name, tensor in named_tensors(layer)})
    with torch.no_grad(), observer:
        layer(torch.randn(3, 5))
    assert observer.seen == []
