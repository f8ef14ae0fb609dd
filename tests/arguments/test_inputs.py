"""Any arguments and any results: what a network is called with and what it returns survives every stage."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from helpers.networks.arguments import IDS, MASK, NETWORKS, Both, Pyramid, Tokens, X, Y
from helpers.rewrites.merges import narrow_unequal
from samples import conv
from torch import nn

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.arguments.inputs import as_inputs, from_json, in_order, inputs_for, run_on, tensors_of, to_json
from fxprune.capture.trace import capture
from fxprune.errors import CaptureError, OptionError


@pytest.mark.parametrize("name", NETWORKS)
def test_the_narrow_network_takes_and_returns_the_same(name):
    model, example = NETWORKS[name]
    proof = fxprune.prove(model, example)
    assert proof.passed, str(proof)
    model = copy.deepcopy(model).double()
    example = inputs_for(model, as_inputs(example))
    plan = fxprune.plan(fxprune.couple(model.eval(), example), keep=0.5)
    wide, narrow = run_on(fxprune.snap(model, plan), example), narrow_unequal(model, plan)
    got = run_on(narrow, example)
    assert type(got) is type(wide)
    assert fxprune.verify(fxprune.snap(model, plan), narrow, example).passed
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in model.parameters())


EXPORTED = {
    "by name only": (["x", "mask", "y"], ["output"]),
    "token ids and a mask": (["ids", "mask"], ["pooled", "output_ids"]),
    "a list and a dict": (["features_0", "features_1", "extra_y"], ["output_0", "output_1"]),
    "a nest": (["x", "y"], ["output_y", "more_0", "more_1_mean"]),
    "numbers": (["x", "y"], ["output_0", "output_1", "output_2"]),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_the_file_has_the_same_inputs_and_outputs(name, tmp_path):
    model, example = NETWORKS[name]
    narrow = narrow_unequal(model, fxprune.plan(fxprune.couple(model.eval(), example), keep=0.5))
    report = fxprune.export_onnx(narrow, example, tmp_path / "net.onnx", batches=(1, 3))
    assert (list(report.inputs), list(report.outputs)) == EXPORTED[name]


def test_arguments_that_are_not_given_keep_their_places_and_their_defaults():
    model = Both().eval()
    captured = capture(model, {"x": X, "y": Y})
    assert torch.equal(captured(X, 2.0, Y), model(X, 2.0, Y))
    assert torch.equal(captured(y=Y, x=X), model(X, y=Y))
    with pytest.raises(SpecialisedError, match=r"argument `scale` was 2.0, run where it is 3.0"):
        captured(X, 3.0, Y)
    with pytest.raises(SpecialisedError, match=r"argument `y` was a tensor, run where it is None"):
        captured(X)


@pytest.mark.parametrize(
    ("example", "other", "words"),
    [
        ((X, 0.5, None), (X, 0.5, Y), "`y` was None, run where it is a tensor"),
        ((X, True, Y), (X, False, Y), "`scale` was True, run where it is False"),
        ({"x": X, "y": Y, "mode": "sum"}, {"x": X, "y": Y, "mode": "other"}, "`mode` was sum, run where it is other"),
    ],
)
def test_constants_are_guarded(example, other, words):
    captured = capture(Both().eval(), example)
    with pytest.raises(SpecialisedError, match=words):
        run_on(captured, other)


def test_constants_inside_a_nest_are_guarded():
    captured = capture(Pyramid().eval(), ([X], {"y": Y, "weight": 2}))
    with pytest.raises(SpecialisedError, match=r"argument `extra\['weight'\]` was 2, run where it is 3"):
        captured([X], {"y": Y, "weight": 3})


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({"x": X, "z": Y}, "does not have: z; it has x, scale, y, mode, mask"),
        ({"y": Y}, "does not give the arguments x"),
        ({"scale": 2.0, "y": Y}, "does not give the arguments x"),
        ((X, object()), "argument `scale` is of type object"),
        (None, "hold no tensor: argument `x` is None; give tensors"),
        ([[1.0], "text"], "hold no tensor: argument `x` is a list and argument `scale` is a str"),
        (torch.nested.nested_tensor([X[0]], layout=torch.jagged), "hold a nested tensor"),
    ],
)
def test_arguments_that_cannot_be_traced_are_named(example, words):
    with pytest.raises(OptionError, match=words):
        fxprune.couple(Both(), example)


@pytest.mark.parametrize(
    ("network", "example", "words"),
    [
        (Both, ([X],), r"inputs \[a list\]: argument `x` is a list, not a tensor \(TypeError\). Give tensors"),
        (Both, (X, 2.0, [1.0]), r"argument `y` is a list, not a tensor \(TypeError\)"),
        (Both, (X, "2"), r"\(2, 3, 8, 8\), a str\]: .*, where argument `scale` is a str"),
        (Both, X.to(torch.uint8), r"\[uint8 \(2, 3, 8, 8\)\]: .* `x` is uint8: give `x.float\(\)`"),
        (Tokens, (IDS.float(), MASK), r"`ids` is float32: give `ids.long\(\)`"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(network, example, words):
    with pytest.raises(CaptureError, match=words):
        fxprune.couple(network().eval(), example)


def test_integers_are_not_blamed_where_floats_differ():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.b = nn.Embedding(9, 8), nn.Linear(8, 4, dtype=torch.float16)

        def forward(self, ids):
            return self.b(self.table(ids))

    with pytest.raises(CaptureError, match=r"same dtype.*Give example inputs that the model accepts"):
        fxprune.couple(Mixed(), torch.zeros(2, 5, dtype=torch.long))


@pytest.mark.parametrize(
    "asks", [torch.is_tensor, lambda t: not isinstance(t, (int, float)), lambda t: hasattr(t, "shape")]
)
def test_a_model_that_asks_for_tensors_is_guarded(asks):
    """Else the narrow network would go the way of tensors with a number."""

    class Timed(Both):
        def forward(self, x, t):
            h = self.a(x) * t if asks(t) else self.a(x) + t
            return self.head(self.c(h.relu()).mean((2, 3)))

    captured = capture(Timed().eval(), (X, torch.tensor(2.0)))
    with pytest.raises(SpecialisedError, match=r"argument `t` was a tensor, run where it is 3\.0: give a tensor"):
        captured(X, 3.0)


def test_a_narrow_network_names_what_is_no_tensor():
    captured = capture(Both().eval(), (X, 2.0, Y))
    for given in ((None, 2.0, Y), (X, 2.0, [Y]), (X.numpy(), 2.0, Y)):
        with pytest.raises(OptionError, match=r"argument `[xy]` is of type \w+, and a tensor in this network"):
            captured(*given)
    with pytest.raises(TypeError, match="missing 3 required positional arguments"):  # Python says it well
        captured()


@pytest.mark.parametrize("name", NETWORKS)
def test_plans_remember_the_arguments(name, tmp_path):
    model, example = NETWORKS[name]
    again = from_json(json.loads(json.dumps(to_json(as_inputs(example)))))
    assert [(x.shape, x.dtype) for x in tensors_of(again)] == [
        (x.shape, x.dtype) for x in tensors_of(as_inputs(example))
    ]
    plan = fxprune.plan(fxprune.couple(model.eval(), example), keep=0.5)
    plan.save(tmp_path / "plan.json")
    assert fxprune.load_plan(tmp_path / "plan.json", model) == plan


def test_an_argument_that_no_file_can_hold_is_refused():
    with pytest.raises(OptionError, match="type dtype cannot be written"):
        to_json((X, torch.float32))


CALLS = {
    "cost": lambda model, plan, wrong: fxprune.cost(model, wrong),
    "fold": lambda model, plan, wrong: fxprune.fold(model, plan, [wrong]),
    "plan": lambda model, plan, wrong: fxprune.plan(plan.coupling, keep=0.5, cluster="activations", batches=[wrong]),
    "graph": lambda model, plan, wrong: in_order(plan.coupling.graph_module.graph, wrong),
    "model": lambda model, plan, wrong: run_on(model, wrong),
}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_under_a_wrong_name_are_one_sentence(name):
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)).eval()
    plan = fxprune.plan(fxprune.couple(model, X), keep=0.5)
    with pytest.raises(OptionError, match="the network takes input, not the inputs images"):
        CALLS[name](model, plan, {"images": X})


def test_no_input_by_name_is_left_out():
    graph = capture(nn.Sequential(conv(3, 8)).eval(), {"input": X}).graph
    with pytest.raises(OptionError, match="the network takes input, not the inputs input, more"):
        in_order(graph, {"input": X, "more": X})
