"""Export: what is written is valid, quiet, dynamic and right; what cannot be is refused and leaves nothing."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from helpers.couplings.cases import Plain, randomise
from torch import nn

from fxprune.errors import ExportError, OptionError
from fxprune.passes.onnx import export as module_under_test
from fxprune.passes.onnx.export import export_onnx
from fxprune.passes.onnx.runtime import onnx_runner

pytestmark = pytest.mark.usefixtures("exported_afresh")


def timm_model(name, **smaller):
    import timm

    model = timm.create_model(name, num_classes=10, **smaller).eval()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):  # the exporter folds these into convolutions
                for tensor in (layer.running_mean, layer.bias):
                    tensor.copy_(torch.randn(tensor.shape, generator=source))
                for tensor in (layer.running_var, layer.weight):
                    tensor.copy_(torch.rand(tensor.shape, generator=source) + 0.5)
    return model


class Two(nn.Module):
    """Two inputs, one of them indices; outputs in a dictionary with a tuple and a None in it."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x, ids):
        hidden = x + self.table(ids).mean(1)
        return {"logits": self.head(hidden), "aux": (hidden.relu_(), None, ids + 1)}


class Clamped(nn.Module):
    """A value clamped twice between tensors, another between an int and a float, and running products."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("low", torch.tensor(-0.2))
        self.register_buffer("high", torch.tensor(0.3))

    def forward(self, x):
        hidden = self.a(x.clamp(-1, max=0.9)) * 2
        y = self.b(hidden.clamp(self.low, self.high)) + self.b(torch.clamp(hidden, max=self.high, min=self.low))
        return y * y.cumprod(1) + torch.cumprod(y, dim=-1)


class Attended(nn.Module):
    """Attention in three dimensions, with a mask, by groups of queries, causal by place or by name."""

    def forward(self, x):
        heads = x.unflatten(-1, (4, 2)).transpose(1, 2)
        mask = torch.ones(5, 5, dtype=torch.bool).tril(1)
        attend = F.scaled_dot_product_attention
        flat = attend(x, x, x, None, 0.0, True) + attend(x, x, x, is_causal=True) + attend(x, x, x, mask, scale=0.3)
        grouped = attend(heads, heads[:, :2], heads[:, :2], mask, enable_gqa=True)
        return flat, grouped, attend(heads, heads, heads, None, 0.0, True)


class Counted(nn.Module):
    """Returns a number and text beside a tensor."""

    def forward(self, x):
        return x * 2, 7, "seven"


NETWORKS = {
    "in float64": (lambda: nn.Linear(4, 3).double(), (torch.zeros(2, 4, dtype=torch.float64),), ["output"]),
    "a number": (lambda: torch.fx.symbolic_trace(Counted()), (torch.zeros(2, 4),), ["output_0", "output_1"]),
    "clamps and running products": (Clamped, (torch.zeros(2, 5, 4),), ["output"]),
    "attention": (Attended, (torch.zeros(2, 5, 8),), ["output_0", "output_1", "output_2"]),
    "resnet": (lambda: timm_model("test_resnet"), (torch.zeros(1, 3, 64, 64),), ["output"]),
    "efficientnet": (lambda: timm_model("test_efficientnet"), (torch.zeros(2, 3, 64, 64),), ["output"]),
    "vit": (lambda: timm_model("test_vit", depth=2), (torch.zeros(1, 3, 160, 160),), ["output"]),
    "two inputs, a dictionary": (Two, (torch.zeros(1, 4), torch.tensor([[1, 6, 2]])), ["logits", "aux_0", "aux_2"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_the_network(name, tmp_path, capfd):
    make, inputs, outputs = NETWORKS[name]
    report = export_onnx(make(), inputs, tmp_path / "net.onnx")
    assert set(report.errors) == {1, 2, 3, 5}
    # Rounding only: float32 keeps 6e-8, and the deepest sum here has some thousand terms.
    assert report.max_rel_error < 1e-5
    assert report.same_argmax
    assert report.outputs == tuple(outputs)
    assert report.opset == 20
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert report.size == (tmp_path / "net.onnx").stat().st_size
    assert b"stack_trace" not in (tmp_path / "net.onnx").read_bytes()
    assert not any(capfd.readouterr())
    assert "net.onnx: opset 20" in str(report)


def test_the_model_stays_as_it_was(tmp_path):
    model = randomise(Plain(), 0).train()
    before = copy.deepcopy(model.state_dict())
    export_onnx(model, torch.zeros(2, 3, 4, 4), tmp_path / "net.onnx", batches=(2,))
    assert all(layer.training for layer in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert tensor.equal(before[name])


def test_weights_too_large_for_the_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "INLINE_BYTES", 1000)
    report = export_onnx(nn.Linear(4, 300), torch.zeros(2, 4), tmp_path / "net.onnx")
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes.keys() == {"net.onnx", "net.onnx.data"}
    assert report.size == sum(sizes.values())
    assert sizes["net.onnx.data"] >= 4 * 300 * 4


@pytest.mark.parametrize("opset", [18])
def test_the_opset_is_the_one_asked_for(opset, tmp_path):
    report = export_onnx(nn.Linear(4, 3), torch.zeros(2, 4), tmp_path / "net.onnx", opset=opset, batches=(2,))
    assert report.opset == opset == onnx.load(report.path).opset_import[0].version


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.row = nn.Parameter(torch.ones(1, 4))

    def forward(self, x):
        return x + self.row.expand(2, 4)


class Determinant(nn.Module):
    def forward(self, x):
        return x * torch.slogdet(x[:, :2, :2])[1].view(-1, 1, 1)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


REFUSED = {
    # AdaptiveAvgPool2d becomes a ReduceMean whose axes opset 17 cannot take as an input.
    "an opset that cannot be had": (nn.AdaptiveAvgPool2d(1), torch.zeros(2, 3, 4, 4), 17, "opset 17 .* wrote opset 18"),
    "a batch that is baked in": (Frozen(), torch.zeros(2, 4), 18, "froze the batch of input `x` at 2"),
    "a branch on values": (Branches(), torch.zeros(2, 4), 18, "Branches cannot be exported .*data-dependent"),
    "an operator of PyTorch alone": (
        Determinant(),
        torch.ones(2, 2, 2) + torch.eye(2),
        18,
        "no conversion of `_linalg_slogdet`.*pt2",
    ),
    "inputs that do not fit": (nn.Linear(3, 4), torch.zeros(2, 4), 18, r"Linear does not run .*\(2, 4\).*shapes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing_behind(name, tmp_path):
    model, inputs, opset, words = REFUSED[name]
    with pytest.raises((ExportError, OptionError), match=words):
        export_onnx(model, inputs, tmp_path / "net.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_keeps_the_file_that_was_there(tmp_path):
    report = export_onnx(nn.Linear(4, 3), torch.zeros(2, 4), tmp_path / "net.onnx", batches=(2,))
    before = report.path.read_bytes()
    with pytest.raises(ExportError):
        export_onnx(Frozen(), torch.zeros(2, 4), report.path)
    assert report.path.read_bytes() == before


def test_inputs_without_a_batch_are_refused(tmp_path):
    with pytest.raises(OptionError, match="axis 0 must be the batch"):
        export_onnx(nn.Linear(4, 3), torch.zeros(0, 4), tmp_path / "net.onnx")


@pytest.mark.parametrize("threads", [None, 1])
def test_the_runner_takes_and_gives_tensors(threads, tmp_path):
    model = nn.Linear(4, 3)
    export_onnx(model, torch.zeros(2, 4), tmp_path / "net.onnx", batches=(2,))
    run = onnx_runner(tmp_path / "net.onnx", threads=threads)
    x = torch.randn(7, 4)
    (y,) = run(x)
    torch.testing.assert_close(y, model(x).detach())
    with pytest.raises(OptionError, match=r"takes 1 inputs \(input\), not 2"):
        run(x, x)
    with pytest.raises(ExportError, match=r"cannot run .* on input \[7, 5\]"):
        run(torch.randn(7, 5))
