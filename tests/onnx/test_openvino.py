"""A narrow CNN and a narrow transformer run in OpenVINO."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from helpers.rewrites.merges import narrow_unequal
from torch import nn

import fxprune
from fxprune.cli import main
from fxprune.errors import ExportError, OptionError
from fxprune.passes.onnx import export_openvino

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, shift):
        return {"a": self.conv(x), "b": shift + 1}


def narrow(name):
    torch.manual_seed(0)
    size = {"img_size": 64} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=10, **size).eval()
    return narrow_unequal(model, fxprune.plan(fxprune.couple(model, X), keep=0.5, method="even"))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_a_folder_is_exported_and_read_back(name, tmp_path, capsys):
    openvino = pytest.importorskip("openvino")
    network = narrow(name)
    fxprune.save(network, tmp_path / "out")
    assert main(["export", str(tmp_path / "out"), "--format", "openvino"]) == 0
    assert "narrow.xml: relative error" in capsys.readouterr().out
    compiled = openvino.compile_model(tmp_path / "out" / "narrow.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        given = torch.randn(batch, 3, 64, 64)
        # Two float32 kernels that sum in different orders.
        torch.testing.assert_close(torch.as_tensor(compiled(given.numpy())[0]), network(given), rtol=1e-4, atol=1e-4)
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    pytest.importorskip("openvino")
    assert export_openvino(Two().eval(), {"x": X, "shift": torch.zeros(2, 5)}, tmp_path / "two.xml") < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two.bin", "two.xml"]


def test_a_file_that_differs_does_not_stay(tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(ExportError, match="differs by"):
        export_openvino(nn.Conv2d(3, 64, 7), X, tmp_path / "net.xml", tolerance=0.0)
    assert not list(tmp_path.iterdir())


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match=r"must end in \.xml"):
        export_openvino(nn.Conv2d(3, 4, 3), X, tmp_path / "net.onnx")
    (tmp_path / "net.bin").write_text("of a user")
    with pytest.raises(OptionError, match=r"net\.bin would be replaced"):
        export_openvino(nn.Conv2d(3, 4, 3), X, tmp_path / "net.xml")
    (tmp_path / "net.bin").unlink()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OptionError, match=r"pip install 'fxprune\[openvino\]'"):
        export_openvino(nn.Conv2d(3, 4, 3), X, tmp_path / "net.xml")
