"""A graft is of the original class, and its own code computes what the narrow graph does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_randomised
from torch import Tensor, nn

import fxprune


class Attention(nn.Module):
    """Heads whose number and width are attributes, and a scale that is computed once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.scale = self.size**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] * self.scale @ qkv[1].transpose(-2, -1)).softmax(-1)
        mixed: Tensor = self.proj((weights @ qkv[2]).transpose(1, 2).reshape(batch, length, self.heads * self.size))
        return mixed


class Split(nn.Module):
    """Two pieces of one convolution, whose lengths stand in a list and in a slice."""

    def __init__(self, *, given: bool) -> None:
        super().__init__()
        self.lengths, self.given = [8, 16], given
        self.stem, self.one, self.other = nn.Conv2d(3, 24, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.stem(x).split(self.lengths if self.given else [8, 16], dim=1)
        total: Tensor = self.one(one) + self.other(other)
        return total


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet_gn"])
def test_networks_of_timm_graft(name: str) -> None:
    x = images(160 if "vit" in name else 64)
    net, narrow = narrow_randomised(timm.create_model(name, num_classes=10), x)
    grafted = fxprune.graft(net, narrow)
    assert type(grafted) is type(net)
    assert sum(p.numel() for p in grafted.parameters()) == sum(p.numel() for p in narrow.parameters())
    assert fxprune.verify(narrow, grafted, x).passed


def test_attributes_get_the_numbers_of_the_narrow_heads() -> None:
    x = torch.randn(2, 5, 16)
    net, narrow = narrow_randomised(nn.Sequential(nn.Linear(16, 16), Attention(16, 2), nn.Linear(16, 3)), x)
    grafted = fxprune.graft(net, narrow)[1]  # type: ignore[index]
    assert (net[1].heads, net[1].size) == (2, 8)  # type: ignore[index]
    assert (grafted.heads, grafted.size, grafted.scale) == (2, 4, pytest.approx(4**-0.5))


def test_lengths_in_a_list_change_and_the_list_of_the_model_does_not() -> None:
    net, narrow = narrow_randomised(Split(given=True), images())
    assert fxprune.graft(net, narrow).lengths == [4, 8]
    assert net.lengths == [8, 16]


def test_a_literal_in_the_code_stands_in_the_way_and_is_named() -> None:
    net, narrow = narrow_randomised(Split(given=False), images())
    with pytest.raises(fxprune.GraftError, match=r"the number 16 at graft/test_graft\.py:\d+, which is 8"):
        fxprune.graft(net, narrow)


def test_the_models_are_independent() -> None:
    net, narrow = narrow_randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), images())
    before = narrow(images())
    with torch.no_grad():
        for parameter in fxprune.graft(net, narrow).parameters():
            parameter.zero_()
    assert torch.equal(narrow(images()), before)


def test_a_graft_trains_and_keeps_its_outputs_in_eval_mode() -> None:
    net, narrow = narrow_randomised(timm.create_model("test_resnet", num_classes=10), images(64))
    grafted = fxprune.graft(net, narrow)
    before = grafted(images(64))
    grafted.train()
    for layer in grafted.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    grafted(images(64)).sum().backward()
    assert all(parameter.grad is not None for parameter in grafted.parameters())
    assert torch.allclose(grafted.eval()(images(64)), before)


def test_without_a_plan_an_example_is_needed() -> None:
    net, narrow = narrow_randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), images())
    del narrow.meta["plan"]
    with pytest.raises(fxprune.OptionError, match="example_inputs"):
        fxprune.graft(net, narrow)
    assert fxprune.graft(net, narrow, example_inputs=images())[0].out_channels == 4  # type: ignore[index]


class Trained(nn.Module):
    """What only training mode does between two convolutions."""

    def __init__(self, does: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.does, self.stem, self.head = does, nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        scores: Tensor = self.head(self.does(y) if self.training else y)
        return scores


def test_a_width_that_only_training_reads_is_refused() -> None:
    net, narrow = narrow_randomised(Trained(lambda y: y * y.shape[1]), images())
    with pytest.raises(fxprune.GraftError, match=r"in training mode only: an output differs by 0\.5"):
        fxprune.graft(net, narrow)


def test_training_is_compared_with_the_wide_network_where_the_graph_refuses_it() -> None:
    net, narrow = narrow_randomised(Trained(lambda y: y * torch.rand(len(y), 1, 1, 1, dtype=y.dtype)), images())
    with pytest.raises(RuntimeError, match="draws no random numbers"):
        narrow.train()(images())
    fxprune.graft(net, narrow)


def test_training_that_shuffles_channels_cannot_be_compared() -> None:
    net, narrow = narrow_randomised(Trained(lambda y: y[:, torch.randperm(y.shape[1])]), images())
    with pytest.warns(fxprune.UncheckedWarning, match="whether it trains so was not compared: an output differs"):
        fxprune.graft(net, narrow)


class Paths(nn.Module):
    """A literal of two attributes, neither of which stands alone anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.paths, self.channels = 2, 8
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.stem(x).split(self.paths * self.channels // 2, dim=1)
        total: Tensor = self.head(pieces[0]) + self.head(pieces[1])
        return total


def test_of_several_attributes_the_width_changes() -> None:
    net, narrow = narrow_randomised(Paths(), images())
    grafted = fxprune.graft(net, narrow)
    assert (grafted.paths, grafted.channels) == (2, 4)
