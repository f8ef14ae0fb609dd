"""Networks are built by name for the image, the seed and the device."""

from __future__ import annotations

import pytest
import torch

from fxprune.errors import ModelError, OptionError
from fxprune.models_zoo.build import build, on_device
from fxprune.models_zoo.spec import ModelSpec


def test_a_network_with_position_embeddings_is_built_for_the_image():
    network = build("vit_tiny_patch16_224", num_classes=10, in_chans=1, image_size=32)
    assert network.spec.kwargs == {"num_classes": 10, "in_chans": 1, "img_size": 32}
    assert network.spec.build()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("test_coatnet", "img_size"), ("levit_128s", "img_size"), ("torchvision/vit_b_16", "image_size")],
)
def test_a_network_that_does_not_run_at_a_size_is_built_for_it(name, argument):
    network = build(name, num_classes=10, image_size=96)
    assert network.spec.kwargs == {"num_classes": 10, "in_chans": 3, argument: 96}
    assert network.model.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 10)


def test_a_network_that_runs_at_a_size_stays_as_it_is():
    assert build("test_resnet", num_classes=10, image_size=96).spec.kwargs == {"num_classes": 10, "in_chans": 3}


def test_a_network_that_cannot_be_had_for_a_size_says_why():
    reason = r"`hrnet_w18_small` does not run on images of 100x100, .* made for 224x224: .*\(\w+: .+\)"
    with pytest.raises(ModelError, match=reason):
        build("hrnet_w18_small", num_classes=10, image_size=100)


def test_the_same_seed_builds_the_same_network():
    first, again, other = (build("resnet20", num_classes=10, seed=seed).model.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["gpu", "cuda:77", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(OptionError, match=r"take `cpu`.* or `auto`"):
        on_device(name)


def test_a_wide_network_without_a_number_of_classes():
    with pytest.raises(ModelError, match="nothing says how many classes it has"):
        ModelSpec("resnet20").build()
