"""What a user gives as a network is taken out of its wrappers, or answered with what to give instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import fxprune
from fxprune.errors import CaptureError, ModelError, OptionError
from fxprune.pytorch.network import network_of

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,
    "both": lambda net: nn.DataParallel(torch.compile(net)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper):
    inner = net()
    wrapped = WRAPPERS[wrapper](inner)
    assert network_of(wrapped) is inner
    plan = fxprune.plan(fxprune.couple(wrapped, X))
    assert plan.widths == {"0.weight": (8, 4)}
    snapped = fxprune.snap(wrapped, plan)
    assert torch.allclose(fxprune.narrow(snapped, plan)(X), snapped(X), atol=1e-6)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    fxprune.csgd(wrapped, plan, optimizer, strength=0.1).remove()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_parts_in_wrappers_are_opened(wrapper):
    whole = nn.Sequential(WRAPPERS[wrapper](net()), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    coupling = fxprune.couple(whole, X)
    assert [group.width for group in coupling.groups.values()] == [8, 4, 6]
    assert coupling.graph_module.meta["fxprune_capture"] == "symbolic"
    plan = fxprune.plan(coupling)
    snapped = fxprune.snap(whole, plan)
    narrow, larger = fxprune.narrow(snapped, plan), torch.randn(3, 3, 9, 9)
    assert torch.allclose(narrow(larger), snapped(larger), atol=1e-6)  # float32, sums of 72


def test_the_module_of_an_exported_program_is_a_network():
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net(), (X,), dynamic_shapes=({0: batch},)).module()
    plan = fxprune.plan(fxprune.couple(exported, X))
    assert plan.widths == {"0.weight": (8, 4)}
    optimizer = torch.optim.SGD(exported.parameters(), lr=0.1)
    fxprune.csgd(exported, plan, optimizer, strength=0.1).remove()
    snapped, five = fxprune.snap(exported, plan), torch.randn(5, 3, 8, 8)
    assert torch.allclose(fxprune.narrow(snapped, plan)(five), snapped(five), atol=1e-6)  # float32, sums of 72


def test_a_container_with_a_forward_of_its_own_is_a_network():
    class Chain(nn.ModuleDict):
        def forward(self, x):
            for layer in self.values():
                x = layer(x)
            return x

    chain = Chain({"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 4, 3)}).eval()
    assert fxprune.plan(fxprune.couple(chain, X)).widths == {"a.weight": (8, 4)}


def test_sparse_tensors_are_refused():
    with pytest.raises(OptionError, match="the example inputs hold a sparse tensor"):
        fxprune.couple(net(), X.to_sparse())
    sparse = net()
    sparse.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(ModelError, match="`mask` of `Sequential` is a sparse tensor"):
        fxprune.couple(sparse, X)


@pytest.mark.parametrize(("special", "kind"), [("to_sparse", "sparse coo"), ("to_mkldnn", "mkldnn")])
def test_a_network_that_returns_a_special_tensor_is_refused(special, kind):
    class Special(nn.Sequential):
        def forward(self, x):
            return {"features": getattr(super().forward(x), special)()}

    with pytest.raises(CaptureError, match=f"^Special returns a {kind} tensor, which no comparison takes: return it"):
        fxprune.couple(Special(*net()).eval(), X)


NO_KERNEL = {
    "_to_sparse": lambda x: x.to_sparse().to_dense(),
    "_nested_tensor_from_tensor_list": lambda x: torch.nested.as_nested_tensor([*x], layout=torch.strided),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", NO_KERNEL)
def test_an_operator_without_a_meta_kernel_is_named(name):
    class Sparse(nn.Sequential):
        def forward(self, x):
            return NO_KERNEL[name](super().forward(x))

    with pytest.raises(CaptureError, match=rf"^`aten::{name}` has no kernel for tensors without numbers"):
        fxprune.couple(Sparse(*net()).eval(), X)


def masked():
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.3)
    return model


def quantised():
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)


def observed():
    from torch.ao.quantization import FakeQuantize

    return nn.Sequential(nn.Linear(4, 4), FakeQuantize())


REFUSED = {
    "name": (lambda: "resnet18", "`resnet18` is a name: .* `timm.create_model"),
    "class": (lambda: nn.ReLU, "`ReLU` is a class: give an instance"),
    "list": (lambda: nn.ModuleList([nn.ReLU()]), "ModuleList has no `forward`: give the network"),
    "no code": (lambda: nn.Module(), "Module has no `forward`: give the network"),
    "nothing": (lambda: None, "a network is a `torch.nn.Module`, not NoneType"),
    "weights": (lambda: net().state_dict(), "a dict of weights has no layers"),
    "program": (lambda: torch.export.export(net(), (X,)), "an exported program .* give the module"),
    "traced": (lambda: torch.jit.trace(net(), X), "from before `torch.jit.script`"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), "`0` is a lazy layer .* call the network once"),
    "lazy statistics": (lambda: nn.Sequential(nn.LazyBatchNorm2d(affine=False)), "`0` is a lazy layer"),
    "mask": (masked, r'`0` has a mask .* `prune.remove\(module, "weight"\)`'),
    "quantised": (quantised, "`0` is quantised"),
    "observed": (observed, "`1` prepares a quantisation: .* prepare the narrow one"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_other_things_are_refused_with_what_to_give(case):
    build, said = REFUSED[case]
    with pytest.raises(ModelError, match=said):
        fxprune.couple(build(), X)


def test_sums_that_a_later_quantisation_observes_are_captured():
    class Quantisable(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.sum = torch.ao.nn.quantized.FloatFunctional()

        def forward(self, x):
            y = self.a(x)
            return self.c(self.sum.add_relu(y, self.b(y)))

    proof = fxprune.prove(Quantisable().eval(), X)
    assert proof.plan.widths == {"a.weight": (6, 3)}
    assert proof.passed, proof


def test_weights_without_numbers_are_refused_where_numbers_are_needed(tmp_path):
    model = net().to("meta")
    coupling = fxprune.couple(model, X.to("meta"))
    plan = fxprune.plan(coupling, method="even")
    for act in (lambda: fxprune.plan(coupling), lambda: fxprune.snap(model, plan), lambda: fxprune.narrow(model, plan),
                lambda: fxprune.fold(model, plan), lambda: fxprune.settle(model, [X]),
                lambda: fxprune.verify(model, model, X), lambda: fxprune.export_onnx(model, X, tmp_path / "a.onnx"),
                lambda: fxprune.plan(coupling, latency=0.5)):  # fmt: skip
        with pytest.raises(ModelError, match=r"`0.weight` is on the meta device.* load weights"):
            act()


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "0.5"}, {"keep": True}, {"keep": [0.5]}, {"macs": "0.5"}, {"params": True}, {"widths": ["0.weight"]},
        {"round_to": "2"}, {"round_to": True}, {"round_to": 1.5}, {"seed": "a"}, {"seed": -1}, {"seed": None},
    ],
)  # fmt: skip
def test_options_of_another_type_are_refused(options):
    with pytest.raises(OptionError, match=f"`{next(iter(options))}`"):
        fxprune.plan(fxprune.couple(net(), X), **options)


def test_swapped_arguments_are_refused():
    model = net()
    coupling = fxprune.couple(model, X)
    with pytest.raises(OptionError, match="give a plan"):
        fxprune.narrow(model, coupling)
    with pytest.raises(ModelError, match="not Plan"):
        fxprune.narrow(fxprune.plan(coupling), model)
    with pytest.raises(OptionError, match="made of a coupling"):
        fxprune.plan(model)


@pytest.mark.parametrize("inputs", [(), (X, X), X.shape])
def test_a_wrong_number_of_arguments_is_refused(inputs):
    with pytest.raises(OptionError, match="`forward` takes input: give a tensor"):
        fxprune.couple(net(), inputs)
