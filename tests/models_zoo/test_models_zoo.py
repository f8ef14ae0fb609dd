"""Networks by name: what is built, what is refused, and the published figures that the CIFAR networks must meet."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from fxprune.errors import ModelError
from fxprune.models_zoo.registry import OWN, create_model, list_models, model_input_size


def on_meta(name: str, **arguments: float) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=10, **arguments).eval()


def macs(model: nn.Module) -> int:
    """Multiply-accumulates of one image of 3x32x32, counted by torch."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "multiply_accumulates"),
    [
        # figures of the papers: 0.27 M, 0.85 M, 1.7 M, (none given), 14.7 M without the hidden linear layers, 1.0 M
        ("resnet20", 20, 0.27e6, 40.8e6),
        ("resnet56", 56, 0.85e6, 125.7e6),
        ("resnet110", 110, 1.73e6, 253.1e6),
        ("resnet164", 164, 2.61e6, 380.6e6),
        ("vgg16_cifar", 14, 14.73e6, 313.2e6),
        ("densenet40", 40, 1.0e6, 264.8e6),
    ],
)
def test_published_size(name, layers, parameters, multiply_accumulates):
    model = on_meta(name)
    weighted = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(weighted) == layers
    # two digits is what the papers print
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.02)
    assert macs(model) == pytest.approx(multiply_accumulates, rel=1e-3)


@pytest.mark.parametrize(("name", "cut"), [("resnet56", 60.85), ("resnet110", 60.89), ("resnet164", 60.91)])
def test_five_eighths_of_the_width_give_the_published_cut(name, cut):
    wide, narrow = (macs(on_meta(name, width=width)) for width in (1, 5 / 8))
    # table 1 of the C-SGD paper prints two decimals, and cuts 60.896 to 60.89
    assert 100 * (1 - narrow / wide) == pytest.approx(cut, abs=0.01)


@pytest.mark.parametrize("name", ["resnet20", "vgg16_cifar", "densenet40"])
def test_one_trace_serves_every_image_size(name):
    model = create_model(name, num_classes=7, in_chans=1, width=0.25).eval()
    traced = fx.symbolic_trace(model)
    for size in (28, 32, 40):
        x = torch.randn(2, 1, size, size)
        assert model(x).shape == (2, 7)
        assert torch.equal(traced(x), model(x))


def test_width_multiplies_every_channel():
    shapes = [p.shape for p in create_model("resnet20", num_classes=10, width=2).parameters() if p.ndim == 4]
    assert sorted({shape[0] for shape in shapes}) == [32, 64, 128]


def test_our_names_shadow_nothing():
    assert not set(OWN) & set(timm.list_models())
    assert len(set(list_models())) == len(list_models())


@pytest.mark.parametrize(
    ("name", "in_chans", "size"),
    [
        ("resnet20", 1, 32),
        ("resnet18", 1, 32),
        ("resnet18.a1_in1k", 3, 32),
        ("torchvision/squeezenet1_1", 3, 32),
        ("torchvision/googlenet", 3, 32),
        ("torchvision/inception_v3", 3, 96),
    ],
)
def test_every_family_is_built(name, in_chans, size):
    model = create_model(name, num_classes=5, in_chans=in_chans).train()
    assert model(torch.randn(2, in_chans, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("renset18", {}, r"`renset18`; the closest names are `resnet18`, `\w+`, `\w+`\.$"),
        ("torchvision/resnet81", {}, r"closest names are `torchvision/resnet18`"),
        ("torchvision/fcn_resnet50", {}, r"is no classifier: give package.module:function"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, "is no classifier"),
        ("", {}, r"the name of the network is empty"),
        ("resnet18.nobody", {}, r"`resnet18.nobody` cannot be built .*Invalid pretrained tag \(nobody\)"),
        ("resnet18", {"depth": 3}, "`resnet18` cannot be built with .*depth=3.*TypeError"),
        ("resnet20", {"depth": 3}, "`resnet20` cannot be built with .*depth=3.*TypeError"),
        (
            "torchvision/resnet18",
            {"in_chans": 1},
            r"3 channels, the data has 1: take a timm model instead \(`resnet18`",
        ),
        ("torchvision/googlenet", {"in_chans": 1}, "take a timm model instead, which"),
        ("resnet20", {"pretrained": True}, "no published weights for `resnet20`"),
        ("torchvision/resnet18", {"pretrained": True}, "1000 classes apart, the data has 10"),
    ],
)
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(ModelError, match=message):
        create_model(name, num_classes=10, **arguments)


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"`resnet18` could not be had with its published weights .*network") as caught:
        create_model("resnet18", num_classes=10, pretrained=True, cache_dir=tmp_path)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet56", (3, 32, 32)),
        ("resnet18", (3, 224, 224)),
        ("resnet10t", (3, 176, 176)),
        ("resnet18.a1_in1k", (3, 224, 224)),
        ("inception_v3", (3, 299, 299)),
        ("torchvision/inception_v3", (3, 299, 299)),
        ("torchvision/resnet18", (3, 224, 224)),
    ],
)
def test_input_size_of_a_name(name, size):
    assert model_input_size(name) == size


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("resnet20", {"in_chans": 1}, (1, 32, 32)),
        ("resnet10t", {"in_chans": 1}, (1, 176, 176)),
        ("vit_tiny_patch16_224", {"in_chans": 1, "img_size": 64}, (1, 64, 64)),
        ("torchvision/inception_v3", {}, (3, 299, 299)),
        ("torchvision/squeezenet1_1", {}, (3, 224, 224)),
    ],
)
def test_input_size_of_a_network_is_what_it_was_built_for(name, arguments, size):
    assert model_input_size(create_model(name, num_classes=10, **arguments)) == size


@pytest.mark.parametrize("name", ["renset18", "resnet18.nobody", "torchvision/nothing"])
def test_input_size_of_an_unknown_name(name):
    with pytest.raises(ModelError, match=f"`{name}`"):
        model_input_size(name)
