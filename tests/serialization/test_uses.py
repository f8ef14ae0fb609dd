"""What people do with a loaded network works on it as on any module: a narrow CNN and a narrow transformer."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_unequal
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from sklearn.datasets import load_digits
from torch import nn

import fxprune
from fxprune.passes.onnx import export_openvino, onnx_runner

X = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = ("test_efficientnet", "test_vit")


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, tmp_path_factory):
    torch.manual_seed(0)
    smaller = {"img_size": 64, "depth": 2} if request.param == "test_vit" else {}
    model = timm.create_model(request.param, num_classes=10, **smaller).eval()
    narrow = narrow_unequal(model, fxprune.plan(fxprune.couple(model, X), keep=0.5, method="even"))
    folder = tmp_path_factory.mktemp("downstream") / request.param
    fxprune.save(narrow, folder)
    return fxprune.load(folder)


def error(wanted, found):
    return float((wanted - found).abs().max() / wanted.abs().max())


@pytest.mark.slow
def test_it_compiles(loaded):
    torch.compiler.reset()
    compiled = torch.compile(loaded, backend="aot_eager")
    with torch.no_grad():
        # Fused operations round sums of float32 another way.
        assert error(loaded(X), compiled(X)) < 1e-5


@pytest.mark.slow
def test_it_trains(loaded):
    network = copy.deepcopy(loaded).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(X), torch.arange(8))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_runs_in_channels_last(loaded):
    network = copy.deepcopy(loaded).to(memory_format=torch.channels_last)
    with torch.no_grad():
        # Other kernels round sums of some thousand float32 terms another way.
        assert error(loaded(X), network(X.contiguous(memory_format=torch.channels_last))) < 1e-4


def test_it_runs_under_autocast(loaded):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = loaded(X).float()
    with torch.no_grad():
        # bfloat16 keeps 8 bits: 4e-3 in each of some ten layers.
        assert error(loaded(X), found) < 0.1


@pytest.mark.slow
def test_it_exports_with_a_dynamic_batch(loaded):
    program = torch.export.export(loaded, (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (1, 3):
        with torch.no_grad():
            assert error(loaded(X[:batch]), program.module()(X[:batch])) < 1e-5  # as above


class Images(CalibrationDataReader):
    """The images, one after another."""

    def __init__(self, name, images=X):
        self.left = iter([{name: image[None].numpy()} for image in images])

    def get_next(self):
        return next(self.left, None)


def in_eight_bits(network, folder, calibration, images):
    """What a network computes for images in onnxruntime, in float32 and in static int8."""
    report = fxprune.export_onnx(network, X, folder / "float.onnx")
    (name,) = (value.name for value in onnx.load(report.path).graph.input)
    quantize_static(report.path, folder / "int8.onnx", Images(name, calibration), quant_format=QuantFormat.QDQ)
    return (onnx_runner(folder / f"{kind}.onnx")(images)[0] for kind in ("float", "int8"))


@pytest.mark.slow
def test_it_runs_in_eight_bits(loaded, tmp_path):
    wanted, found = map(np.asarray, in_eight_bits(loaded, tmp_path, X, X))
    # 8 bits keep two digits in each of some ten layers. With random weights logits differ little between images: 0.89
    # was seen for the transformer; a wrong scale or a wrong tensor gives 0.
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("loaded", ["test_efficientnet"], indirect=True)
def test_a_trained_network_decides_alike_in_eight_bits(loaded, tmp_path):
    digits = load_digits()
    small = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = nn.functional.interpolate(small, 64, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    labels, network = torch.as_tensor(digits.target), copy.deepcopy(loaded).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(40):
        chosen = torch.randperm(1000)[:64]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    wanted, found = in_eight_bits(network.eval(), tmp_path, images[:64], images[1397:])
    assert (wanted.argmax(1) == labels[1397:]).float().mean() > 0.7  # it has learned: chance is 0.1
    # 0.99 was seen after 60 steps.
    assert (wanted.argmax(1) == found.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("loaded", ["test_vit"], indirect=True)
def test_torchao_makes_its_linear_layers_int8(loaded):
    torchao = pytest.importorskip("torchao.quantization")
    network = copy.deepcopy(loaded)
    torchao.quantize_(network, torchao.Int8DynamicActivationInt8WeightConfig())
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert layers and all(type(layer.weight) is not nn.Parameter for layer in layers)
    with torch.no_grad():
        wanted, found = loaded(X), network(X)
    # As in onnxruntime above, with random weights.
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_nncf_makes_it_int8(loaded, form, tmp_path):
    nncf = pytest.importorskip("nncf")
    openvino = pytest.importorskip("openvino")
    if form == "onnx":
        file = onnx.load(fxprune.export_onnx(loaded, X, tmp_path / "float.onnx").path)
        (name,) = (value.name for value in file.graph.input)
        onnx.save(nncf.quantize(file, nncf.Dataset([{name: x.numpy()} for x in X.split(1)])), tmp_path / "int8.onnx")
        (found,) = onnx_runner(tmp_path / "int8.onnx")(X)
    else:
        export_openvino(loaded, X, tmp_path / "float.xml")
        network = openvino.Core().read_model(tmp_path / "float.xml")
        network = nncf.quantize(network, nncf.Dataset([x.numpy() for x in X.split(1)]))
        found = openvino.compile_model(network, "CPU")(X.numpy())[0]
    with torch.no_grad():
        wanted = loaded(X)
    # As in onnxruntime above, with random weights.
    assert np.corrcoef(wanted.ravel(), np.asarray(found).ravel())[0, 1] > 0.8
