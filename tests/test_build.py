"""Networks are built by name for the image, the seed and the device."""

from __future__ import annotations

import pytest
import torch

from fxprune.errors import OptionError
from fxprune.passes.build import build, on_device


def test_a_network_with_position_embeddings_is_built_for_the_image():
    network = build("vit_tiny_patch16_224", num_classes=10, in_chans=1, image_size=32)
    assert network.spec.kwargs == {"num_classes": 10, "in_chans": 1, "img_size": 32}
    assert network.spec.build()(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_the_same_seed_builds_the_same_network():
    first, again, other = (build("resnet20", num_classes=10, seed=seed).model.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["gpu", "cuda:77", ""])
def test_a_device_that_is_not_there(name):
    with pytest.raises(OptionError, match="take `cpu` or `auto`"):
        on_device(name)
