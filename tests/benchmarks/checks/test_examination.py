"""A network is checked to the end or says what failed, and small classes pass every check."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.benchmarks.coverage import EXAMPLE, good_net
from timm.models import mobilevit
from torch import nn

import fxprune
from benchmarks.checks import examination
from benchmarks.checks.examination import CheckTask, check, examine, fold
from benchmarks.checks.result import result_from
from benchmarks.networks.forms import small_form
from fxprune.errors import VerifyError
from fxprune.passes.merge import concentrate


def examined(net, **kwargs):
    facts = {}
    examine(net, EXAMPLE, lambda **told: facts.update(told), **kwargs)
    return facts


def folded(net):
    facts = {}
    fold(net, EXAMPLE, lambda **told: facts.update(told))
    return facts


def test_a_good_network_is_captured_merged_and_exported():
    facts = examined(good_net(), depth="onnx")
    assert "error" not in facts
    assert (facts["capture"], facts["groups"], facts["stage"]) == ("symbolic", 2, "onnx")
    assert facts["error64"] < 1e-12 and facts["error_onnx"] < 1e-5
    # Halves: 3-8-4 channels become 3-4-2, and the last layer reads 32 of 64 columns.
    assert facts["parameters_after"] == (27 + 1) * 4 + (36 + 1) * 2 + (32 + 1) * 5
    assert facts["macs"] == 36 * 27 * 8 + 16 * 72 * 4 + 64 * 5
    assert facts["macs_after"] == 36 * 27 * 4 + 16 * 36 * 2 + 32 * 5


class Decided(nn.Module):
    """A network that decides by the batch size."""

    def __init__(self):
        super().__init__()
        self.net = good_net()

    def forward(self, x):
        return self.net(x) if len(x) > 1 else -self.net(x)


def test_a_network_is_compared_at_the_batches_that_it_takes():
    facts = examined(Decided().eval(), depth="exact")
    assert "error" not in facts and facts["error64"] < 1e-12 and facts["batches"] == "2 or more"
    assert result_from({"model": "m", "depth": "exact", "digest": "", **facts}).verdict == "batch bound"


def test_a_good_network_is_folded_without_the_oracles():
    facts = folded(good_net())
    assert facts["stage"] == "fold" and facts["error_folded"] < facts["error_merged"] and "error64" not in facts
    assert result_from({"model": "m", "depth": "fold", "digest": "", **facts}).verdict == "folded"
    assert "error_folded" not in folded(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))


def test_a_fold_that_makes_it_worse_fails(monkeypatch):
    def worse(model, plan, batches):
        small = right(model, plan, batches)
        small.meta["errors"][small.meta["repair"]] = 2 * small.meta["errors"]["none"]
        return small

    right = fxprune.fold
    monkeypatch.setattr(fxprune, "fold", worse)
    with pytest.raises(VerifyError, match="the bare merge by"):
        folded(good_net())


def test_a_network_without_groups_keeps_its_reasons():
    facts = examined(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), depth="onnx")
    assert facts["groups"] == 0 and "error" not in facts
    assert result_from({"model": "m", "depth": "onnx", "digest": "", **facts}).verdict == "nothing merges"


@pytest.mark.parametrize(("broken", "error"), [("concentrate", "AnalysisError"), ("narrow", "RewriteError")])
def test_a_failed_oracle_is_told(broken, error, monkeypatch):
    def wrong(model, plan):
        other = concentrate(model, plan)
        nn.init.ones_(other[0].bias)
        return other

    monkeypatch.setattr(examination, broken, wrong)
    facts = examined(good_net(), depth="onnx")
    assert facts["error"].startswith(f"{error}: output at a batch of 2 differs by")
    assert facts["stage"] == "culprits" and facts["culprits"] == [] and "error_onnx" not in facts


@pytest.mark.parametrize(("wide_too", "message"), [(False, "no."), (True, "no. The wide network fails alike.")])
def test_a_failed_export_says_whether_the_wide_network_fails_alike(wide_too, message, monkeypatch):
    def refuse(net, *_, **__):
        if isinstance(net, torch.fx.GraphModule) or wide_too:
            raise fxprune.errors.ExportError("no.")

    monkeypatch.setattr(fxprune, "export_onnx", refuse)
    with pytest.raises(fxprune.errors.ExportError) as caught:
        examined(good_net(), depth="onnx")
    assert str(caught.value) == message


# Model, the least share that can be pruned, the most parameters after: what was reached may not be lost again.
SMALL = [
    ("test_byobnet", 0.99, 0.40),
    ("test_coatnet", 0.99, 0.335),
    ("test_convnext", 0.99, 0.37),
    ("test_efficientnet", 0.99, 0.44),
    ("test_mambaout", 0.99, 0.42),
    ("test_nfnet", 0.60, 0.70),
    ("test_resnet", 0.99, 0.31),
    ("test_vit", 0.99, 0.41),
    ("test_vit_relpos", 0.99, 0.39),
    ("dla46x_c", 0.99, 0.32),
    ("edgenext_xx_small", 0.99, 0.31),
    ("ese_vovnet19b_slim_dw", 0.99, 0.33),
    ("mobilevit_xxs", 0.99, 0.42),
    ("starnet_s050", 0.99, 0.34),
    ("swiftformer_xs", 0.99, 0.32),
]
# Fewer blocks of each kind, of which the check takes most of its time.
SHALLOW = {
    "test_coatnet": {"depths": (1, 1, 1, 1)},
    "test_convnext": {"depths": (1, 1, 2, 1)},
    "test_mambaout": {"depths": (1, 1, 2, 1)},
    "test_vit": {"depth": 2},
    "test_vit_relpos": {"depth": 2},
    "dla46x_c": {"levels": (1, 1, 1, 1, 2, 1)},
    "edgenext_xx_small": {"depths": (1, 1, 2, 1)},
    "ese_vovnet19b_slim_dw": {"layer_per_block": 2},
    "mobilevit_xxs": {"blocks": mobilevit.model_cfgs["mobilevit_xxs"].blocks[:3]},
    "starnet_s050": {"depths": (1, 1, 2, 1)},
    "swiftformer_xs": {"layers": (2, 1, 1, 1)},
}


@pytest.mark.parametrize(("model", "share", "parameters"), SMALL)
def test_small_classes_are_pruned_exactly_and_exported(model, share, parameters, monkeypatch):
    monkeypatch.setattr(examination, "small_form", functools.partial(small_form, **SHALLOW.get(model, {})))
    facts = {}
    check(CheckTask(model), lambda **told: facts.update(told))
    found = result_from({"model": model, "depth": "onnx", "digest": "", **facts})
    assert found.verdict == "exact, exported", found
    assert found.error64 < 1e-12 and found.error_onnx < 1e-5
    assert found.share >= share and found.parameters_after / found.parameters <= parameters


@pytest.mark.parametrize("model", ["torchvision/squeezenet1_1", "torchvision/lraspp_mobilenet_v3_large"])
def test_networks_of_torchvision_are_pruned_exactly(model):
    facts = {}
    check(CheckTask(model, "exact"), lambda **told: facts.update(told))
    found = result_from({"model": model, "depth": "exact", "digest": "", **facts})
    assert found.verdict == "exact", found
    assert found.error64 < 1e-12 and found.share > 0.99


def test_an_entry_point_is_analysed_without_weights():
    facts = {}
    check(CheckTask("resnet18", "couple"), lambda **told: facts.update(told))
    assert (facts["image"], facts["parameters"], facts["capture"]) == (224, 11689512, "symbolic")
    assert facts["share"] > 0.99 and "error64" not in facts


def test_a_network_above_the_limit_is_left_out():
    facts = {}
    check(CheckTask("resnet18", most_parameters=1e6), lambda **told: facts.update(told))
    assert facts == {"stage": "build", "parameters": 11689512, "image": 128, "too_large": True}
