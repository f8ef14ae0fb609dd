"""Detectors: backbone and heads get narrow together, and the narrow ones find the same boxes."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from helpers.rewrites.merges import narrow_unequal
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import MultiScaleRoIAlign

import fxprune
from fxprune.arguments.inputs import inputs_for
from fxprune.errors import ModelError
from fxprune.models_zoo.networks.detection import core_of, with_core
from fxprune.passes.verify.randomise import randomised

CLASSES, PYRAMID = 4, 16
SMALL = {"min_size": 64, "max_size": 64}


def stage(inner, outer):
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.BatchNorm2d(outer), nn.ReLU())


def pyramid(width=PYRAMID):
    body = nn.Sequential(OrderedDict(stem=stage(3, 8), a=stage(8, 12), b=stage(12, 16)))
    return BackboneWithFPN(body, {"a": "0", "b": "1"}, [12, 16], width)


class Maps(nn.Module):
    """Feature maps without a pyramid."""

    out_channels = (8, 12)

    def __init__(self):
        super().__init__()
        self.a, self.b = stage(3, 8), stage(8, 12)

    def forward(self, x):
        x = self.a(x)
        return OrderedDict(first=x, second=self.b(x))


def anchors():
    return AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0),) * 3)


def one_anchor():
    return AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)


def pool(size):
    return MultiScaleRoIAlign(["0", "1"], size, 2)


def rcnn(kind, **heads):
    few = {"box_detections_per_img": 5, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0}
    return kind(
        pyramid(), CLASSES, rpn_anchor_generator=anchors(), box_roi_pool=pool(3), **few, **SMALL, **heads
    )  # fmt: skip


DETECTORS = {
    "retinanet": lambda: detection.RetinaNet(
        pyramid(), CLASSES, anchor_generator=anchors(), score_thresh=0.0, topk_candidates=20, **SMALL
    ),
    "fcos": lambda: detection.FCOS(
        pyramid(64), CLASSES, anchor_generator=one_anchor(), score_thresh=0.0, topk_candidates=20, **SMALL
    ),
    "ssd": lambda: detection.ssd.SSD(
        Maps(), DefaultBoxGenerator([[2], [2]]), (64, 64), CLASSES, score_thresh=0.0, topk_candidates=20
    ),
    "faster": lambda: rcnn(detection.FasterRCNN),
    "mask": lambda: rcnn(detection.MaskRCNN, mask_roi_pool=pool(4)),
    "keypoint": lambda: rcnn(detection.KeypointRCNN, num_keypoints=3, keypoint_roi_pool=pool(4)),
}


def example(core):
    return inputs_for(core, core.example(2, 64, 64))


@pytest.fixture(scope="module", params=DETECTORS)
def pair(request):
    torch.manual_seed(0)
    detector = randomised(DETECTORS[request.param]()).double().eval()
    core = core_of(detector)
    plan = fxprune.plan(fxprune.couple(core, example(core)), keep=0.5)
    return detector, core, plan


def test_both_oracles_hold_and_nearly_all_can_be_pruned(pair):
    _, core, plan = pair
    assert plan.coupling.share_prunable > 0.99
    proof = fxprune.prove(core, example(core))
    assert proof.passed, str(proof)


def test_the_narrow_detector_finds_the_same(pair):
    detector, core, plan = pair
    wide = copy.deepcopy(detector)
    core_of(wide).load_state_dict(fxprune.snap(core, plan).state_dict())
    small = with_core(detector, narrow_unequal(core, plan))
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in wide.parameters())
    images = [torch.rand(3, *size, dtype=torch.float64) for size in ((64, 48), (40, 64))]
    with torch.no_grad():
        wanted, got = wide(images), small(images)
    for a, b in zip(wanted, got, strict=True):
        assert a.keys() == b.keys()
        assert len(a["boxes"]) > 0
        for key in a:
            # Sums in another order, and torchvision keeps anchors in float32; boxes are in pixels, up to 64 of them.
            torch.testing.assert_close(a[key], b[key], rtol=1e-5, atol=1e-5)


def test_what_is_no_detector_is_refused():
    with pytest.raises(ModelError, match="Linear has neither `roi_heads`"):
        core_of(nn.Linear(2, 2))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    narrow = narrow_unequal(net, fxprune.plan(fxprune.couple(net, torch.empty(2, 3, 4, 4)), keep=0.5))
    with pytest.raises(ModelError, match="has no cuts"):
        with_core(net, narrow)
