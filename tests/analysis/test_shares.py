"""Small networks of many families merge what the table of coverage says; a rule that freezes more shows here."""

from __future__ import annotations

import pytest

import fxprune
from benchmarks.checks.examination import CheckTask, _form, facts_of
from benchmarks.checks.lines import read_lines
from benchmarks.coverage.__main__ import DOCS

# Cheap ones, of as many kinds of layers as possible.
MODELS = (
    "convmixer_768_32", "cspnext_tiny", "davit_tiny", "deit_tiny_patch16_224", "dla46x_c", "edgenext_xx_small",
    "efficientformer_l1", "efficientvim_m1", "efficientvit_b0", "fasternet_t0", "focalnet_tiny_srf", "ghostnet_050",
    "hiera_tiny_224", "hrnet_w18_small", "inception_next_atto", "mobilenetv3_small_050", "mobilevit_xxs",
    "mvitv2_tiny", "nest_tiny", "pit_ti_224", "pvt_v2_b0", "regnetx_002", "resnest14d", "resnetv2_18", "shvit_s1",
    "skresnet18", "swin_tiny_patch4_window7_224", "test_byobnet", "test_coatnet", "test_convnext",
    "test_efficientnet", "test_mambaout", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos",
    "torchvision/shufflenet_v2_x0_5", "torchvision/squeezenet1_1",
)  # fmt: skip
ROWS = {row.model: row for row in read_lines(DOCS / "coverage.csv") if row.depth in ("onnx", "fold")}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_no_share_is_lost(model):
    form, row = _form(CheckTask(model)), ROWS[model]
    assert form.image == row.image
    network = form.outline()
    facts = facts_of(fxprune.couple(network, form.example(network)))
    assert (facts["groups"], facts["share"]) == (row.groups, pytest.approx(row.share, rel=1e-9))
