"""The captured graph computes what the model computes, on real layers under their old names, at any batch and size."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from samples import Net, conv, linear
from torch import fx, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import WAY, capture
from fxprune.errors import CaptureError, OptionError

IMAGES = torch.zeros(2, 3, 8, 8)


def small(forward, **layers):
    return Net(forward, a=conv(3, 8), bn=nn.BatchNorm2d(8), drop=nn.Dropout(0.5), head=linear(8, 4), **layers)


def plain(s, x):
    return s.head(s.drop(s.bn(s.a(x)).relu()).mean((2, 3)))


def test_layers_stay_under_their_names_and_share_their_weights():
    model = small(plain)
    captured = capture(model, (IMAGES,))
    layers = [node.target for node in captured.graph.nodes if node.op == "call_module"]
    assert layers == ["a", "bn", "drop", "head"]
    assert {name: type(layer) for name, layer in captured.named_children()} == {
        "a": nn.Conv2d, "bn": nn.BatchNorm2d, "drop": nn.Dropout, "head": nn.Linear,
    }  # fmt: skip
    assert {name: id(p) for name, p in captured.named_parameters()} == {
        name: id(p) for name, p in model.named_parameters()
    }
    assert all(captured.get_submodule(name) is not layer for name, layer in model.named_children())
    assert captured.meta[WAY] == "symbolic"


def test_the_model_is_not_touched():
    model = small(plain).train()
    model.bn.eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    capture(model, (IMAGES,))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 8, 8), (5, 3, 4, 12)], ids=str)
def test_batch_and_image_size_stay_free(shape):
    model = small(plain).eval()
    images = torch.randn(shape)
    assert torch.equal(capture(model, (IMAGES,))(images), model(images))


def test_train_and_eval_reach_the_layers():
    captured = capture(small(plain), (IMAGES,))
    assert not captured.bn.training
    assert captured.train().bn.training and captured.drop.training


def test_arguments_that_are_not_given_keep_their_defaults():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv(3, 8)

        def forward(self, x, scale=2.0, mask=None):
            return self.a(x) * scale if mask is None else self.a(x) * mask

    model, images = Optional(), torch.randn(2, 3, 8, 8)
    assert torch.equal(capture(model, (images,))(images), model(images))
    mask = torch.rand(2, 8, 1, 1)
    assert torch.equal(capture(model, (images, 1.0, mask))(images, 1.0, mask), model(images, 1.0, mask))


def test_names_that_are_numbers_and_attributes_that_are_no_tensors_survive():
    model = Net(lambda s, x: s.layers[1](s.layers[0](x)) * s.factor, layers=nn.ModuleList([conv(3, 8), conv(8, 4)]))
    model.factor = 3
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(capture(model, (IMAGES,))(images), model(images))


def branches(s, x):
    y = s.a(x)
    if y.shape[-1] % 2:
        y = F.pad(y, (0, 1))
    parts = [part for part in y.chunk(2, 1) if part.shape[1] == 4]
    return s.head(torch.cat(parts, 1).mean((2, 3)))


def test_a_branch_on_a_size_is_taken_as_the_example_takes_it_and_guarded():
    model = small(branches).eval()
    captured = capture(model, (IMAGES,))
    assert captured.meta[WAY] == "concrete"
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(captured(images), model(images))
    with pytest.raises(
        SpecialisedError, match=r"test_capture.py:\d+ was 0, run where it is 1|was False, run where it is True"
    ):
        captured(torch.randn(3, 3, 8, 7))


def image_by_image(s, x):
    n, c, h, w = s.a(x).shape
    kernels = s.a.weight.repeat(n, 1, 1, 1)
    return F.conv2d(s.a(x).reshape(1, n * c, h, w)[:, : 3 * n], kernels, groups=n).view(n, c, h, w)


def test_a_number_that_pytorch_takes_as_it_is_needs_no_guard():
    model = small(image_by_image).eval()
    captured = capture(model, (IMAGES,), ways=("concrete",))
    assert captured.meta[WAY] == "concrete"
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(captured(images), model(images))


@pytest.mark.parametrize("given", [lambda s, y, n: torch.mul(y, n), lambda s, y, n: torch.narrow(y, 0, 0, n)])
def test_a_number_that_python_takes_keeps_its_guard_when_pytorch_takes_it_too(given):
    def counted(s, x):
        n = x.shape[0]
        return given(s, sum(s.a(x) for _ in range(n)), n)

    captured = capture(small(counted).eval(), (IMAGES,), ways=("concrete",))
    with pytest.raises(SpecialisedError, match=r"test_capture.py:\d+ was 2, run where it is 3"):
        captured(torch.randn(3, 3, 8, 8))


def test_a_number_that_python_takes_keeps_its_guard_where_one_line_calls_both():
    def calling(function, *args):
        return function(*args)

    def counted(s, x):
        y = s.a(x)
        times = calling(range, x.shape[0])
        return sum(y for _ in times) + calling(torch.mul, y, x.shape[0])

    captured = capture(small(counted).eval(), (IMAGES,), ways=("concrete",))
    with pytest.raises(SpecialisedError, match=r"test_capture.py:\d+ was 2, run where it is 3"):
        captured(torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize(
    "parts", [lambda y: torch.chunk(y, y.shape[2] // 4, 2), lambda y: y.split(4, 2), lambda y: y.unbind(2)]
)
def test_a_number_of_pieces_is_guarded(parts):
    model = small(lambda s, x: s.a(sum(part.sum() for part in parts(x)) + len(parts(x)) + x)).eval()
    captured = capture(model, (IMAGES,), ways=("concrete",))
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(captured(images), model(images))
    with pytest.raises(SpecialisedError, match=r"test_capture.py:\d+ was \d, run where it is \d+"):
        captured(torch.randn(2, 3, 16, 8))


def test_sequences_of_sizes_may_be_spread():
    model = Net(lambda s, x: s.a(x).reshape(*x.shape[:-1], 2, 4).sum(-1), a=linear(3, 8))
    for shape in ((2, 5, 3), (4, 7, 3)):
        x = torch.randn(shape)
        assert torch.equal(capture(model, (torch.zeros(2, 5, 3),))(x), model(x))


UNTRACEABLE = {
    "a branch on values": lambda s, x: s.a(x) if x.sum() > 0 else x,
    "a number out of a tensor": lambda s, x: s.a(x) * float(x.max()),
    "a number of values": lambda s, x: s.a(x) * max(len(x.flatten().nonzero()), 1),
    "a loop over places": lambda s, x: sum(s.a(x) for _ in x.flatten().nonzero()),
    "numpy": lambda s, x: torch.from_numpy(s.a(x).detach().numpy()),
    "lengths": lambda s, x: pack_padded_sequence(s.a(x), x[:, 0, 0, 0].long().clamp(1, 1), batch_first=True)[0],
    "a loop over values": lambda s, x: sum(s.a(x) for _ in range(int(x.argmax()))),
}


SIZED = {
    "expand": lambda x: torch.ones(1, 8, 1, 1).expand(x.shape[0], -1, -1, -1),
    "new_zeros": lambda x: torch.ones(1).new_zeros(x.shape[0], 8, 1, 1),
}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_are_proxies_may_be_given_to_a_constant_one_by_one(name):
    model = small(lambda s, x: s.head((s.a(x) * SIZED[name](x)).mean((2, 3)))).eval()
    captured = capture(model, (IMAGES,), ways=["symbolic"])
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(captured(images), model(images))


@pytest.mark.parametrize("why", UNTRACEABLE)
def test_what_depends_on_values_is_refused_with_module_line_and_remedy(why):
    model = nn.Sequential(conv(3, 3), Net(UNTRACEABLE[why], a=conv(3, 3)))
    with pytest.raises(CaptureError) as caught:
        capture(model, (IMAGES,))
    text = str(caught.value)
    assert "cannot trace Sequential" in text
    assert "in module `1`" in text
    assert "test_capture.py" in text and "lambda s, x" in text
    assert "Make the line independent of tensor values" in text and "notrace" not in text
    assert "before it (`0` is traced)" in text
    assert "meta" not in text and "symbols" not in text and "Could not guard" not in text  # how it is captured
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("wrong", [torch.zeros(2, 5, 8, 8), torch.zeros(3, 8)])
def test_inputs_that_do_not_fit_are_blamed_where_no_trace_follows_the_model(wrong):
    model = small(lambda s, x: s.a(x) if x.shape[1] > 2 else s.a(x[..., :1])).eval()
    with pytest.raises(CaptureError, match=r"does not run on inputs \[.*Give example inputs that the model accepts"):
        capture(model, (wrong,))


@fx.wrap
def halves(x):
    if x.shape[1] % 2:
        raise ValueError("odd")
    return x.unflatten(1, (2, -1)).flatten(1, 2)


@fx.wrap
def noisy(x):
    return x * 2 if float(x.detach().sum()) > 1e9 else x


@pytest.mark.parametrize(
    ("forward", "way", "whole"),
    [
        (lambda s, x: s.head(halves(s.a(x)).mean((2, 3))), "concrete", 0),
        (lambda s, x: s.head(noisy(s.a(x)).mean((2, 3))), "symbolic", 1),
    ],
)
def test_functions_that_are_kept_whole_are_traced_through_where_that_works(forward, way, whole):
    model = small(forward).eval()
    captured = capture(model, (IMAGES,))
    assert captured.meta[WAY] == way
    assert sum(node.target in (halves, noisy) for node in captured.graph.nodes) == whole
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(captured(images), model(images))


@pytest.mark.parametrize(("former", "way", "forward"), [("plain", "symbolic", plain), ("values", "concrete", branches)])
def test_former_names_of_ways_are_understood(former, way, forward):
    assert capture(small(forward), (IMAGES,), ways=(former,)).meta[WAY] == way


@pytest.mark.parametrize(("ways", "named"), [(("plane",), "plane"), ((), "none")])
def test_a_way_that_there_is_not_is_refused(ways, named):
    with pytest.raises(OptionError, match=f"ways must be some of symbolic, concrete, export, not {named}"):
        fxprune.couple(small(plain), IMAGES, ways=ways)


def test_a_layer_with_the_name_of_a_keyword_is_refused_by_it():
    heads = nn.Sequential(OrderedDict({"class": nn.Linear(4, 3)}))
    with pytest.raises(CaptureError, match=r"^`class`.* a keyword: rename it\.$"):
        capture(heads, (torch.zeros(2, 4),))


def test_a_network_is_analysed_in_inference_mode_too():
    network = small(plain)
    with torch.inference_mode():
        assert fxprune.couple(network, IMAGES).groups


def test_a_network_that_records_no_gradients_is_captured_alike():
    def largest_so_far(s, x):
        y = s.a(x)
        out, places = torch.empty_like(y), torch.empty(0, dtype=torch.long)
        torch.cummax(y, 2, out=(out, places))  # raises where gradients are recorded
        return s.head(out.mean((2, 3)))

    network = small(largest_so_far)
    with torch.no_grad():
        captured = capture(network, (IMAGES,))
        torch.testing.assert_close(captured(IMAGES + 1.0), network(IMAGES + 1.0))


def test_a_function_given_to_pytorch_is_refused_in_one_sentence():
    net = Net(lambda s, x: torch.vmap(torch.sin)(s.a(x)), a=nn.Linear(3, 4))
    with pytest.raises(CaptureError, match=r"gives a function to PyTorch at .*test_capture\.py:\d+ .*vmap"):
        fxprune.couple(net, torch.zeros(2, 3))


def test_a_layer_refuses_arguments_in_a_trace_as_in_a_call():
    def forward(s, x):
        try:
            return s.head(s.a(x), scale=2.0)
        except TypeError:
            return s.head(s.a(x).relu())

    network = Net(forward, a=linear(3, 8), head=linear(8, 4))
    assert fxprune.plan(fxprune.couple(network, torch.zeros(2, 3))).widths == {"a.weight": (8, 4)}
