"""At half width, a narrow network computes what the snapped one does: networks by name."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.attributes import assert_layers_tell_the_truth
from helpers.rewrites.merges import snapped_and_narrow

import fxprune
from fxprune.models_zoo.registry import create_model
from fxprune.passes.verify.compare import verify
from fxprune.passes.verify.prove import scattered
from fxprune.passes.verify.randomise import randomised

# Network: image size (the smallest that it takes), number of groups, share of the weights that can be pruned at least.
# Deeper ResNets for CIFAR only repeat blocks of resnet20; tests/options/test_zoo_recipes.py counts their groups.
NETWORKS = {
    "resnet20": (8, 12, 0.99),
    "vgg16_cifar": (32, 13, 0.99),
    "densenet40": (8, 39, 0.99),
    "resnet18": (32, 12, 0.99),
    "resnet50": (32, 15, 0.99),
    "resnext50_32x4d": (32, 15, 0.99),
    "vgg11_bn": (32, 10, 0.99),
    "densenet121": (32, 22, 0.99),
    "mobilenetv2_100": (32, 25, 0.99),
    "mobilenetv3_small_100": (32, 27, 0.99),
    "efficientnet_b0": (32, 40, 0.99),
    "regnety_002": (32, 44, 0.99),
    "dla34": (32, 25, 0.99),
    "hrnet_w18_small": (32, 45, 0.99),
    "res2net50_14w_8s": (32, 74, 0.99),
    "ghostnet_100": (32, 31, 0.99),
    "repvgg_a0": (32, 5, 0.99),
    "convnext_atto": (32, 9, 0.99),
    "vit_tiny_patch16_224": (32, 5, 0.99),
    "torchvision/shufflenet_v2_x0_5": (64, 30, 0.99),
    "torchvision/googlenet": (32, 57, 0.99),
    "torchvision/inception_v3": (96, 94, 0.99),
    "torchvision/squeezenet1_1": (64, 25, 0.99),
    "torchvision/mnasnet0_5": (64, 25, 0.99),
}
# A classifier of a hundred million weights, two hundred tokens, and more blocks than one with a projection and one
# without, take long and show nothing more.
BLOCKS = {"layers": (2, 1, 1, 1)}
SMALLER = {
    "vgg16_cifar": {"width": 0.5},
    "vgg11_bn": {"mlp_ratio": 0.0625},
    "resnet50": BLOCKS,
    "resnext50_32x4d": BLOCKS,
    "res2net50_14w_8s": BLOCKS,
    "densenet121": {"block_config": (2, 3, 2, 2)},
    "convnext_atto": {"depths": (1, 1, 2, 1)},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_half_as_wide_and_the_same(name):
    size, groups, share = NETWORKS[name]
    model = randomised(create_model(name, num_classes=10, **SMALLER.get(name, {}))).double().eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coupling = fxprune.couple(model, images)
    assert len(coupling.groups) == groups and coupling.share_prunable >= share
    plan = scattered(coupling, keep=0.5, seed=0)
    assert all(
        after == -(-before // 2) or group_has_odd_width(coupling, name) for name, (before, after) in plan.widths.items()
    )
    snapped, made = snapped_and_narrow(model, plan)
    report = verify(snapped, made, images, tolerance=1e-9, batches=(3,))  # the second oracle
    assert report.passed, report
    assert_layers_tell_the_truth(made)
    assert sum(p.numel() for p in made.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def group_has_odd_width(coupling, name):
    return coupling.groups[name].width % 2 == 1
