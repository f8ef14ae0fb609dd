"""What only `torch.export` can see goes through the same rules and the same rewrite, and says the same as tracing."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import narrow_unequal
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import WAY, capture
from fxprune.errors import CaptureError
from fxprune.passes.rewrite.calls import CASES
from fxprune.passes.store.artifact import load, save
from fxprune.passes.verify.prove import scattered
from fxprune.passes.verify.randomise import randomised
from fxprune.pytorch.call_targets import canonical_call
from fxprune.residual import internal_groups

IMAGES = torch.zeros(2, 3, 8, 8)
aten = torch.ops.aten


def checked(s, x):
    if hasattr(x, "__call__"):  # noqa: B004 - a proxy has it
        raise TypeError("not a tensor")
    y = s.bn(s.a(x)).relu()
    y = y.view(y.shape[0], 2, 4, -1).flatten(1, 2) + torch.arange(64, device=x.device).to(x.dtype)
    return s.head(y.mean(2))


def function(s, x):
    y = s.bn(s.a(x))
    return s.head(s.drop(y * (2.0 if type(y.shape[1]) is int else 1.0)).mean((2, 3)))


def small(forward):
    return Net(forward, a=conv(3, 8), bn=nn.BatchNorm2d(8), drop=nn.Dropout(0.5), head=linear(8, 4))


ONLY_EXPORT = {"a check whether it has a method": checked, "the type of a size": function}


@pytest.mark.parametrize("why", ONLY_EXPORT)
def test_what_tracing_cannot_pass_is_exported_and_both_oracles_hold(why):
    model = small(ONLY_EXPORT[why])
    with pytest.raises(CaptureError):
        capture(model, (IMAGES,), ways=("symbolic", "concrete"))
    proof = fxprune.prove(model, IMAGES)
    assert proof.passed, proof
    assert proof.plan.coupling.graph_module.meta[WAY] == "export"
    assert list(proof.plan.widths.values()) == [(4, 2)] if why.startswith("a check") else [(8, 4)]


def attention(s, x):
    b, n, _ = x.shape
    q, k, v = s.qkv(s.norm(x)).reshape(b, n, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    x = x + s.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 16))
    return s.head(s.fc2(F.gelu(s.fc1(x))).mean(1))


def product(s, x):
    q, k, v = s.qkv(x).split([8, 8, 16], -1)
    return s.head(((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v)


def grouped(s, x):
    y = s.a(x)
    y = s.shared(s.depth(y).relu())
    y = y * s.gate(y.mean((2, 3), keepdim=True)).sigmoid()
    return s.head(torch.cat([y[:, :6], F.pad(y[:, 6:], (0, 0, 0, 0, 1, 2))], 1))


def summed(s, x):
    y = s.a(x)
    return s.head((y.softmax(1) * y.sum(1, keepdim=True)).mean((2, 3)))


def residual(s, x):
    y = s.stem(x)
    y = y + s.bn(s.b(s.a(y).relu()))
    return s.head(torch.cat(s.gn(y).chunk(2, 1)[::-1], 1).flatten(1))


SAME = {
    "attention": (
        Net(attention, norm=nn.LayerNorm(16), qkv=linear(16, 48), proj=linear(16, 16), fc1=linear(16, 32),
            fc2=linear(32, 16), head=linear(16, 4)),
        torch.zeros(2, 5, 16),
    ),
    "product": (Net(product, qkv=linear(6, 32), head=linear(16, 4)), torch.zeros(2, 5, 6)),
    "grouped": (
        Net(grouped, a=conv(3, 16), depth=conv(16, 16, groups=16), shared=conv(16, 16, groups=4),
            gate=conv(16, 16, 1), head=conv(19, 4)),
        IMAGES,
    ),
    "summed": (Net(summed, a=conv(3, 8), head=linear(8, 4)), IMAGES),
    "residual": (
        Net(residual, stem=conv(3, 8), a=conv(8, 12), b=conv(12, 8), bn=nn.BatchNorm2d(8), gn=nn.GroupNorm(2, 8),
            head=linear(8 * 64, 4)),
        IMAGES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_both_ways_find_the_same_groups_and_narrow_to_the_same_numbers(name):
    net, x = SAME[name]
    model, x = randomised(net).double().eval(), torch.randn_like(x).double()
    traced, exported = (fxprune.couple(model, x, ways=(way,)) for way in ("symbolic", "export"))
    assert traced.groups
    assert exported.digest == traced.digest
    assert exported.share_prunable == traced.share_prunable
    narrow = [narrow_unequal(model, scattered(coupling, keep=0.5, seed=0)) for coupling in (traced, exported)]
    assert {n: p.shape for n, p in narrow[0].named_parameters()} == {
        n: p.shape for n, p in narrow[1].named_parameters()
    }
    # float64; the same operations in the same order, but for a factor that may stand elsewhere.
    assert fxprune.verify(narrow[0], narrow[1], x, tolerance=1e-12, batches=(1, 3)).passed
    assert internal_groups(exported) == internal_groups(traced)


def test_parameters_keep_their_names_and_the_network_its_device():
    model = small(checked).eval()
    captured = capture(model, (IMAGES,))
    assert {n: id(p) for n, p in captured.named_parameters()} == {n: id(p) for n, p in model.named_parameters()}
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(captured(images), model(images))
    assert captured.to("meta")(images.to("meta")).is_meta


def test_weights_on_the_meta_device_do():
    model = small(checked).eval()
    on_meta = small(checked).to("meta")
    assert fxprune.couple(on_meta, IMAGES.to("meta")).digest == fxprune.couple(model, IMAGES).digest


def test_it_is_saved_loaded_and_exported_like_any_other(tmp_path):
    model = randomised(small(checked)).eval()
    plan = fxprune.plan(fxprune.couple(model, IMAGES), keep=0.5)
    narrow = narrow_unequal(model, plan)
    save(narrow, tmp_path)
    again, images = load(tmp_path, model=model), torch.randn(3, 3, 8, 8)
    assert torch.equal(again(images), narrow(images))
    report = fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx", batches=(1, 3))
    assert report.max_rel_error < 1e-4  # float32


def test_training_mode_is_refused():
    captured = capture(small(function), (IMAGES,))
    with pytest.raises(SpecialisedError, match=r"call `.eval\(\)`, or train the model itself"):
        captured.train()(IMAGES)
    captured.eval()(IMAGES)


def test_another_size_than_the_example_is_refused():
    with pytest.raises(SpecialisedError, match="size 3 of `inputs_0` was 8, run where it is 9"):
        capture(small(function), (IMAGES,))(torch.zeros(2, 3, 8, 9))


REFUSED = {
    "parity": (lambda s, x: s.a(x) if x.shape[0] % 2 else x, "number of samples"),
    "a number of samples": (lambda s, x: s.a(x).reshape(2, 8, 8, 8), "Constraints violated"),
    "a value": (lambda s, x: s.a(x) * float(x.max()), "data-dependent"),
    "a mask": (lambda s, x: s.a(x)[x.sum((1, 2, 3)) > 0], "values of a tensor"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_would_hold_for_the_example_only_is_refused(why):
    forward, reason = REFUSED[why]
    with pytest.raises(CaptureError, match=reason):
        capture(small(forward), (IMAGES,), ways=("export",))


def test_inputs_by_name_and_nested_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 4)

        def forward(self, x, scale=2.0, mask=None):
            if hasattr(x, "__call__"):  # noqa: B004 - a proxy has it
                raise TypeError
            y = self.a(x) * scale
            return {"y": self.b(y if mask is None else y * mask), "all": (x,)}

    model, inputs = Two().eval(), {"mask": torch.rand(2, 1, 8, 8), "x": torch.randn(2, 3, 8, 8)}
    captured = capture(model, inputs)
    assert captured.meta[WAY] == "export"
    assert torch.equal(captured(**inputs)["y"], model(**inputs)["y"])
    with pytest.raises(SpecialisedError, match="one batch size"):
        captured(x=torch.randn(3, 3, 8, 8), mask=inputs["mask"][:1])


def shared(s, x):
    y = F.linear(s.b(s.a(x)), s.b.weight.mT)
    return F.linear(y, s.a.weight.mT)


def shared_kernels(s, x):
    return F.conv_transpose2d(s.c(x), s.c.weight, padding=1)


def lengths(s, x):
    y = F.normalize(s.a(x), dim=-1)
    return s.head(y * y.norm(dim=-1, keepdim=True) / y.var(-1, keepdim=True) + y.new_zeros(y.shape[0], 8))


def test_the_only_way_says_why_its_graph_cannot_be_analysed():
    def fitted(s, x):
        return s.head(torch.linalg.lstsq(s.a(x).mT @ s.a(x), s.a(x).mT).solution.mT)

    model = Net(fitted, a=linear(3, 8), head=linear(8, 4)).eval()
    with pytest.raises(CaptureError, match=r"`linalg_lstsq` returns depends on the values .* the network before it"):
        fxprune.couple(model, torch.rand(2, 5, 3), ways=("symbolic",))


ALIKE = {
    "a shared weight": (shared, torch.zeros(2, 3)),
    "a shared kernel": (shared_kernels, IMAGES),
    "lengths and variances": (lengths, torch.zeros(2, 3)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_an_exported_graph_has_the_groups_of_a_traced_one(name):
    forward, x = ALIKE[name]
    model = Net(forward, a=linear(3, 8), b=linear(8, 6), c=conv(3, 8, 3), head=linear(8, 4)).eval()
    traced, exported = (fxprune.couple(model, x, ways=(way,)) for way in ("symbolic", "export"))
    assert {group.name: group.width for group in traced.groups.values()} == {
        group.name: group.width for group in exported.groups.values()
    }
    assert traced.groups


KINDS = {
    aten.view.default: "view",
    aten._unsafe_view.default: "view",
    aten.reshape.default: "reshape",
    aten.expand.default: "expand",
    aten.unflatten.int: "unflatten",
    aten.split.Tensor: "split",
    aten.split.sizes: "split",
    aten.split_with_sizes.default: "split_with_sizes",
    aten.chunk.default: "chunk",
    aten.tensor_split.sections: "tensor_split",
    aten.slice.Tensor: operator.getitem,
    aten.narrow.default: "narrow",
    aten.pad.default: F.pad,
    aten.constant_pad_nd.default: F.pad,
    aten.matmul.default: "matmul",
    aten.bmm.default: "bmm",
    aten.einsum.default: torch.einsum,
    aten.sum.dim_IntList: "sum",
    aten.softmax.int: "softmax",
    aten.scaled_dot_product_attention.default: F.scaled_dot_product_attention,
    aten.conv1d.default: torch.conv2d,
    aten.conv3d.default: torch.conv2d,
    aten.layer_norm.default: F.layer_norm,
    aten.rms_norm.default: F.layer_norm,
    # A length that is stated in a second way, or whose case nobody wrote: channels there freeze.
    aten.as_strided.default: None,
    aten.view.dtype: None,
    aten.convolution.default: None,
    aten.baddbmm.default: None,
    aten.channel_shuffle.default: None,
    aten.arange.start: None,
    aten.unfold.default: None,
    aten.topk.values: None,
    aten.narrow_copy.default: "narrow",
    aten.linear.default: F.linear,
    aten.conv_transpose2d.input: F.conv_transpose2d,
    aten.var.correction: torch.var,
    aten.linalg_vector_norm.default: torch.linalg.vector_norm,
    aten.zeros.default: torch.zeros,
    aten.new_zeros.default: "new_zeros",
    aten.repeat.default: "repeat",
    aten.group_norm.default: torch.group_norm,
}  # fmt: skip


@pytest.mark.parametrize("overload", KINDS, ids=str)
def test_the_schema_tells_which_case_an_operator_is(overload):
    assert canonical_call(overload) == KINDS[overload]
    assert KINDS[overload] in {None, F.linear, *CASES}
