"""Networks are built for small images and with the arguments they take; without weights they keep their buffers."""

from __future__ import annotations

import pytest
from torch import nn

from benchmarks.networks.forms import small_form, with_constants
from benchmarks.networks.torchvision import torchvision_form, torchvision_points


@pytest.mark.parametrize(
    ("model", "image", "arguments"),
    [
        ("test_resnet", 96, {}),
        ("test_vit_relpos", 96, {"img_size": 96}),
        ("crossvit_tiny_240", 128, {}),
        ("efficientformer_l1", 224, {}),
    ],
)
def test_images_are_as_small_as_the_network_takes(model, image, arguments):
    form = small_form(model)
    assert (form.image, form.arguments) == (image, arguments)


@pytest.mark.parametrize(
    ("model", "family", "arguments"),
    [
        ("torchvision/swin_v2_t", "swin_v2", [[2, 3, 64, 64]]),
        ("torchvision/r2plus1d_18", "r2plus1d", [[2, 3, 16, 64, 64]]),
        ("torchvision/raft_small", "raft", [[2, 3, 128, 128]] * 2),
        ("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn", [[2, 3, 128, 128], [2, 3, 4]]),
        ("torchvision/ssdlite320_mobilenet_v3_large", "ssdlite", [[2, 3, 320, 320]]),
    ],
)
def test_the_smallest_of_each_family_of_torchvision_with_its_arguments(model, family, arguments):
    assert {point.cls: point.name for point in torchvision_points()}[family] == model
    form = torchvision_form(model)
    assert [list(x.shape) for x in form.example(form.build())] == arguments


@pytest.mark.parametrize(
    ("model", "buffers_have_values"),
    [("vit_tiny_patch16_dinov3_qkvb", True), ("vit_tiny_r_s16_p8_224", False)],
    ids=["buffers with values", "a builder that runs the network"],
)
def test_a_network_without_weights_keeps_the_values_of_its_buffers(model, buffers_have_values):
    network = with_constants(model)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert not any(buffer.is_meta for buffer in network.buffers()) or not buffers_have_values
    assert not nn.Linear(2, 2).weight.is_meta
