"""What a graft says of itself is what it computes: widths, feature maps, classifiers."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import Tensor, nn

import fxprune
from benchmarks.grafts.interface import untrue
from fxprune.passes.verify import randomised, scattered
from fxprune.pytorch.modules import map_tensors

pytestmark = pytest.mark.slow

NAMES = ["test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]
# Convolutions, attention, and both; a token for the class, a bias for positions, computed weights.
FAMILIES = ["test_vit", "test_vit_relpos", "test_coatnet", "test_nfnet"]
SHALLOW = {
    "test_vit": {"depth": 2},
    "test_vit_relpos": {"depth": 2},
    "test_coatnet": {"depths": (1, 1, 1, 1)},
    "test_convnext": {"depths": (1, 1, 2, 1)},
}


def images(name: str) -> Tensor:
    size = 160 if "vit" in name or "coat" in name else 64
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@functools.cache
def pair_of(name: str) -> tuple[nn.Module, nn.Module]:
    net = randomised(timm.create_model(name, num_classes=10, **SHALLOW.get(name, {}))).eval()
    plan = scattered(fxprune.couple(net, images(name)), keep=0.5, seed=0)
    return net, fxprune.graft(net, narrow_snapped(net, plan)).eval()


def graft_of(name: str) -> nn.Module:
    return pair_of(name)[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_timm_says_of_the_wide_network_holds(name: str) -> None:
    assert untrue(*pair_of(name), images(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_it_states_the_widths_that_it_has(name: str) -> None:
    grafted: nn.Module = graft_of(name)
    features = grafted.forward_features(images(name))  # type: ignore[operator]
    hidden = grafted.forward_head(features, pre_logits=True)  # type: ignore[operator]
    axis = -1 if "vit" in name else 1
    assert grafted.num_features == features.shape[axis]
    assert grafted.head_hidden_size == hidden.shape[1]
    assert grafted.get_classifier().in_features == hidden.shape[1]  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_its_feature_info_is_that_of_its_feature_maps(name: str) -> None:
    grafted: nn.Module = graft_of(name)
    maps = grafted.forward_intermediates(images(name), intermediates_only=True)  # type: ignore[operator]
    assert [entry["num_chs"] for entry in grafted.feature_info] == [x.shape[1] for x in maps]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_its_classifier_can_be_replaced_and_its_blocks_checkpointed(name: str) -> None:
    grafted: nn.Module = map_tensors(graft_of(name), lambda _, x: x.detach().clone())
    grafted.reset_classifier(0)  # type: ignore[operator]
    assert grafted(images(name)).shape == (2, grafted.head_hidden_size)
    grafted.reset_classifier(5)  # type: ignore[operator]
    wanted = grafted(images(name))
    assert wanted.shape == (2, 5)
    grafted.set_grad_checkpointing(True)  # type: ignore[operator]
    assert torch.equal(grafted(images(name)), wanted)
    grafted.train()(images(name)).sum().backward()
    assert all(parameter.grad is not None for parameter in grafted.parameters())


class Lists(nn.Module):
    """Blocks in lists, which are no modules that are called: only ``forward_intermediates`` shows their widths."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, 8, 3)]), nn.ModuleList([nn.Conv2d(8, 12, 3)])])
        self.head = nn.Conv2d(12, 4, 1)
        self.feature_info = [{"num_chs": 8, "module": "blocks.0"}, {"num_chs": 12, "module": "blocks.1"}]

    def forward_intermediates(self, x: Tensor, *, intermediates_only: bool = True) -> list[Tensor]:
        maps = []
        for (layer,) in self.blocks:  # type: ignore[misc]
            x = layer(x).relu()
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.forward_intermediates(x)[-1])
        return output


def test_feature_info_follows_the_maps_that_the_model_returns() -> None:
    net, x = randomised(Lists()).eval(), torch.randn(2, 3, 16, 16)
    plan = fxprune.plan(fxprune.couple(net, x), keep=0.5)
    grafted = fxprune.graft(net, narrow_snapped(net, plan))
    assert [entry["num_chs"] for entry in grafted.feature_info] == [4, 6]  # type: ignore[union-attr]
