"""The gradients of narrow networks are those of float64, whatever the order of memory that they are trained in."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import fxprune
from fxprune.passes.distributed.sharding import LocalBatch
from fxprune.passes.options.training import TrainOptions
from fxprune.passes.train.loss import make_loss
from fxprune.passes.train.onednn import BLOCK, PACKED, ContiguousStrided, contiguous
from fxprune.passes.train.step import Step, make_optimizer

ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Projections(nn.Module):
    """Strided 1x1 convolutions that get narrow: a layer, one after a permuted view, a function, and one upwards."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 1, stride=2)
        self.norm, self.second = nn.LayerNorm(12), nn.Conv2d(12, 16, 1, stride=(1, 2))
        self.weight = nn.Parameter(torch.randn(12, 16, 1, 1) / 4)
        self.up, self.head = nn.ConvTranspose2d(12, 8, 1, 2, output_padding=1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(self.stem(x).relu()).relu()
        x = self.second(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).relu()
        x = F.conv2d(x, self.weight, stride=(2, 1)).relu()
        return self.head(self.up(x).square().mean((2, 3)))


class Seen(TorchFunctionMode):
    """Notes what strided 1x1 convolutions are given."""

    def __init__(self):
        super().__init__()
        self.tensors = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PACKED and args[1].shape[-1] == 1:
            self.tensors += args[:2]
        return func(*args, **(kwargs or {}))


def narrowed():
    torch.manual_seed(0)
    model = Projections().eval()
    coupling = fxprune.couple(model, torch.empty(2, 3, 16, 16, device="meta"))
    plan = fxprune.plan(coupling, keep=0.5)
    return fxprune.narrow(fxprune.snap(model, plan), plan)


def gradients(model, part, options):
    """One by one, as the trainer leaves them."""
    step = Step(model, make_optimizer(model, options, lr=0.1), make_loss(options, 10), options, torch.device("cpu"))
    step.gradients([part])
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("weights", ORDERS)
@pytest.mark.parametrize("images", ORDERS)
def test_the_gradients_of_a_narrow_network_are_those_of_float64(images, weights):
    model = narrowed()
    assert [layer.in_channels for layer in (model.first, model.second)] == [4, 6]
    wanted = copy.deepcopy(model).double()
    part = LocalBatch(torch.randn(4, 3, 16, 16), torch.arange(4), 4)
    F.cross_entropy(wanted(part.images.double()), part.labels).backward()
    model.to(memory_format=ORDERS[weights])
    given = LocalBatch(part.images.contiguous(memory_format=ORDERS[images]), part.labels, 4)
    with Seen() as seen:
        found = gradients(model, given, TrainOptions(channels_last=weights == "channels last"))
    assert len(seen.tensors) == 8 and all(x.shape[1] < BLOCK for x in seen.tensors)
    assert all(x.stride() == torch.empty(x.shape).stride() for x in seen.tensors)
    for name, parameter in wanted.named_parameters():
        # float32 sums of up to 1,024 terms; what oneDNN gets wrong is wrong by 0.1 and more.
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=f"{name}: {{}}".format)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "copied"),
    [(4, 1, 2, True), (15, 1, (1, 2), True), (16, 1, 2, False), (4, 1, 1, False), (4, 3, 2, False)],
)
def test_other_convolutions_stay_in_channels_last(channels, kernel, stride, copied):
    layer = nn.Conv2d(channels, 5, kernel, stride).to(memory_format=torch.channels_last)
    images = torch.randn(2, channels, 8, 8).to(memory_format=torch.channels_last)
    with ContiguousStrided():
        assert layer(images).is_contiguous() == copied


def test_axes_of_length_one_get_the_strides_of_a_contiguous_tensor():
    weight = torch.randn(8, 4, 1, 1).to(memory_format=torch.channels_last)
    assert weight.contiguous().stride() == (4, 1, 4, 4) and contiguous(weight).stride() == (4, 1, 1, 1)
    assert torch.equal(weight, contiguous(weight))
