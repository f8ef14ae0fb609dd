"""A file that is not the network is found out, and the value at which it leaves it is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from helpers import onnx_table
from helpers.couplings.cases import Plain, randomise
from torch import nn

from fxprune.errors import CheckpointError, ExportError
from fxprune.passes.onnx import localise as onnx_divergence
from fxprune.passes.onnx.check import _same_class, check_onnx
from fxprune.passes.onnx.export import export_onnx

X = torch.zeros(2, 3, 4, 4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = randomise(Plain(), 0).float()
    return model, export_onnx(model, X, tmp_path_factory.mktemp("onnx") / "net.onnx").path


def test_a_program_that_was_kept_of_another_network_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_table, "_digest", lambda *_: b"any network")
    monkeypatch.setattr(onnx_table, "_are_all_stored", lambda *_: False)
    first, second = (randomise(Plain(), seed).float() for seed in (1, 2))
    export_onnx(first, X, tmp_path / "first.onnx")
    with pytest.raises(ExportError, match=r"second.onnx and the network disagree at a batch of 1"):
        export_onnx(second, X, tmp_path / "second.onnx")


def test_a_program_that_was_kept_gives_the_file_of_a_new_one(tmp_path, exported_afresh, monkeypatch):
    second, fresh = randomise(Plain(), 2).float(), tmp_path / "fresh.onnx"
    export_onnx(second, X, fresh)
    monkeypatch.undo()
    for model in (randomise(Plain(), 1).float(), second):
        export_onnx(model, X, tmp_path / "kept.onnx")
    assert (tmp_path / "kept.onnx").read_bytes() == fresh.read_bytes()


def tampered(path, change):
    """Copy of an ONNX file after ``change(graph)``."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path.parent / "tampered.onnx")
    return path.parent / "tampered.onnx"


def weight(name, by):
    """Add to one entry of an initializer."""

    def change(graph):
        (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[-1] += by
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    return change


def operator(old, new):
    """Replace the first operator of a kind."""

    def change(graph):
        next(node for node in graph.node if node.op_type == old).op_type = new

    return change


# Convolution and batch norm are one node in the file: the value is named after the batch norm.
TAMPERED = {
    "first convolution": (weight("conv1.weight", 0.5), r"`\w+` \(Conv, in module `bn1`\)"),
    "second convolution": (weight("conv2.weight", 0.5), r"`\w+` \(Conv, in module `bn2`\)"),
    "activation": (operator("Relu", "Sigmoid"), r"`relu` \(Sigmoid, in the network's own forward\)"),
    "head": (weight("head.bias", 0.5), r"`output` \(Gemm, in module `head`\)"),
    "NaN": (weight("head.weight", np.nan), r"`output` \(Gemm, in module `head`\), off by inf"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_the_first_diverging_value_is_named(name, exported):
    model, path = exported
    change, words = TAMPERED[name]
    with pytest.raises(ExportError, match=rf"first diverging value is {words}.*in the conversion to ONNX"):
        check_onnx(model, tampered(path, change), X)
    assert not list(path.parent.glob(".*"))


def test_the_file_itself_passes(exported):
    model, path = exported
    agreement = check_onnx(model, path, X, batches=(1, 4))
    assert agreement.errors.keys() == {1, 4}
    # Rounding of float32 sums of a hundred terms.
    assert agreement.max_rel_error < 1e-5


class Pretends(nn.Module):
    """Shows torch.export another face."""

    def forward(self, x):
        return x * 2 if torch.compiler.is_exporting() else x * 3


def test_a_wrong_trace_is_told_from_a_wrong_conversion(tmp_path):
    with pytest.raises(ExportError, match=r"`output` .* it went wrong in the trace by torch.export"):
        export_onnx(Pretends(), torch.zeros(2, 4), tmp_path / "net.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_wrong_runtime_is_told_from_a_wrong_file(exported, monkeypatch):
    model, path = exported
    real = onnx_divergence.onnx_runner

    def broken(file, *, optimise=True):
        run = real(file, optimise=optimise)
        return lambda *inputs: tuple(y * (1.5 if optimise else 1.0) for y in run(*inputs))

    monkeypatch.setattr(onnx_divergence, "onnx_runner", broken)
    x = torch.randn(2, 3, 4, 4)
    divergence = onnx_divergence.first_value(model.eval(), path, (x,), 1e-4)
    assert divergence.culprit == "the graph optimisations of onnxruntime"
    assert divergence.module == "bn1"


def test_a_file_of_another_network_is_found_out(exported):
    _, path = exported
    with pytest.raises(ExportError, match="first diverging value is"):
        check_onnx(randomise(Plain(), 1), path, X)


@pytest.mark.parametrize("content", [None, b"", b"no protobuf"])
def test_no_onnx_file(content, tmp_path):
    if content is not None:
        (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"there is no ONNX file|cannot load .* bytes"):
        check_onnx(Plain(), tmp_path / "net.onnx", X)


@pytest.mark.parametrize(
    ("eager", "other", "same"),
    [
        ([[1.0, 2.0, 0.0]], [[1.0, 2.1, 0.0]], True),
        ([[1.0, 2.0, 0.0]], [[2.1, 2.0, 0.0]], False),
        ([[2.0 - 1e-5, 2.0, 0.0]], [[2.0, 2.0 - 1e-5, 0.0]], True),  # nobody can tell
        ([[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]], False),
        ([[1.0]], [[2.0]], True),
        ([1.0, 2.0], [2.0, 1.0], True),
        ([[1, 2]], [[2, 1]], True),
    ],
)
def test_same_class_where_the_choice_is_clear(eager, other, same):
    # Half the gap of the third line: two float32 runtimes differ by 1e-6.
    assert _same_class(torch.tensor(eager), torch.tensor(other), tolerance=1e-4) is same
