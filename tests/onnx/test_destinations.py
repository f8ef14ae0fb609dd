"""Every file is written where torch would write it: a text, a path, and an open file if it is one file."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
import pytest
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import nn

import fxprune
from fxprune.errors import ExportError
from fxprune.passes.onnx import check_onnx, export, export_pt2

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    return narrow_snapped(net, plan)


def load_plan(narrow, path):
    narrow.meta["plan"].save(path)
    return fxprune.load_plan(path, narrow.meta["plan"].coupling.graph_module)


WRITE = {
    "out": lambda narrow, path: (fxprune.save(narrow, path), fxprune.load(path)),
    "plan.json": load_plan,
    "net.onnx": lambda narrow, path: fxprune.export_onnx(narrow, X, path, batches=(2,)),
    "net.py": lambda narrow, path: fxprune.export_python(narrow, X, path),
    "net.pt2": lambda narrow, path: (export_pt2(narrow, X, path, batches=(2,)), torch.export.load(path)),
}


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", WRITE)
def test_a_place_is_a_text_or_a_path(name, kind, narrow, tmp_path, forked):
    WRITE[name](narrow, kind(tmp_path / name))
    assert (tmp_path / name).exists()


def test_a_program_goes_into_an_open_file(narrow):
    file = io.BytesIO()
    export_pt2(narrow, X, file, batches=(2,))
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(X), narrow(X))


def test_an_onnx_file_goes_into_an_open_file(narrow, tmp_path):
    report = fxprune.export_onnx(narrow, X, file := io.BytesIO(), batches=(2,))
    assert onnx.load_from_string(file.getvalue()).graph.input[0].name == report.inputs[0]
    assert report.path == Path("the given file")
    with open(tmp_path / "net.onnx", "wb") as file:
        assert fxprune.export_onnx(narrow, X, file, batches=(2,)).path == tmp_path / "net.onnx"
    check_onnx(narrow, tmp_path / "net.onnx", (X,), tolerance=1e-4, batches=(2,))  # as in the export


def test_weights_beside_an_onnx_file_are_no_open_file(narrow, monkeypatch):
    monkeypatch.setattr(export, "INLINE_BYTES", 0)
    with pytest.raises(ExportError, match="give a path, not a file object"):
        fxprune.export_onnx(narrow, X, file := io.BytesIO(), batches=(2,))
    assert not file.getvalue()


@pytest.mark.parametrize("name", sorted(WRITE.keys() - {"net.pt2", "net.onnx"}))
def test_what_is_a_folder_or_several_files_takes_no_open_file(name, narrow):
    with pytest.raises(TypeError, match="BytesIO"):
        WRITE[name](narrow, io.BytesIO())


class Named(nn.Module):
    """Returns text beside a tensor."""

    def forward(self, x):
        return {"y": x.relu(), "kind": "relu"}


def test_a_program_holds_no_text(tmp_path):
    with pytest.raises(ExportError, match=r"returns the text 'relu', and .*net\.pt2 can hold tensors and numbers only"):
        export_pt2(Named(), X, tmp_path / "net.pt2", batches=(2,))
    assert not list(tmp_path.iterdir())
