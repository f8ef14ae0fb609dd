"""Outputs that do not count freeze nothing, and the narrow network does not return them."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field, fields
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fxprune
from fxprune.arguments.outputs import counts, place_of
from fxprune.errors import CaptureError, OptionError, PlanError

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@dataclass
class ModelOutput(OrderedDict):
    """As those of transformers: fields, keys, and None for what there is not."""

    logits: object = None
    hidden: object = None

    def __post_init__(self):
        for each in fields(self):
            if getattr(self, each.name) is not None:
                self[each.name] = getattr(self, each.name)


@dataclass
class Plain:
    logits: object = None
    hidden: object = None


Named = namedtuple("Named", "logits hidden")


class Hidden(nn.Module):
    """A residual stream that leaves beside the logits, and a second head."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 3, 1))

    def forward(self, x):
        x = self.stem(x)
        y = x + self.block(x.relu())
        return self.kind(logits=self.head(y), hidden=(x, y, self.second(y)))


KINDS = {
    "dict": (dict, "logits", lambda out: out["logits"], lambda out: "hidden" not in out),
    "ModelOutput": (ModelOutput, ["logits"], lambda out: out.logits, lambda out: out.hidden is None),
    "dataclass": (Plain, "logits", lambda out: out.logits, lambda out: out.hidden is None),
    "named tuple": (Named, "logits", lambda out: out.logits, lambda out: out.hidden is None),
    "tuple": (lambda logits, hidden: (hidden, logits), 1, lambda out: out[1], lambda out: out[0] is None),
    "nested": (
        lambda logits, hidden: [{"l": logits}, {"h": hidden}],
        "0.l",
        lambda out: out[0]["l"],
        lambda out: out[1] is None,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_stream_becomes_narrow_in_the_same_container(name):
    kind, outputs, read, is_absent = KINDS[name]
    net = Hidden(kind).eval()
    assert "stem.weight" not in fxprune.couple(net, IMAGES).groups
    coupling = fxprune.couple(net, IMAGES, outputs=outputs)
    assert {name: group.width for name, group in coupling.groups.items()} == {"stem.weight": 8}
    plan = fxprune.plan(coupling, keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    out = narrow(IMAGES)
    assert type(out) is type(net(IMAGES))
    assert is_absent(out)
    torch.testing.assert_close(read(out), read(snapped(IMAGES)))
    assert not [name for name, _ in narrow.named_parameters() if name.startswith("second")]
    report = fxprune.verify(snapped, narrow, IMAGES, tolerance=1e-5)
    assert report.passed
    assert len(report.errors) == 1


def test_a_wrong_output_that_counts_is_found():
    net = Hidden(dict).eval()
    plan = fxprune.plan(fxprune.couple(net, IMAGES, outputs="logits"), keep=0.5)
    snapped = fxprune.snap(net, plan)
    narrow = fxprune.narrow(snapped, plan)
    narrow.head.bias.data += 1
    assert not fxprune.verify(snapped, narrow, IMAGES, tolerance=1e-5).passed


def test_some_hidden_states_count():
    coupling = fxprune.couple(Hidden(dict).eval(), IMAGES, outputs=["logits", "hidden.2"])
    assert {*coupling.groups} == {"stem.weight", "second.0.weight"}
    assert "stem.weight" not in fxprune.couple(Hidden(dict).eval(), IMAGES, outputs=["logits", "hidden"]).groups


def test_a_plan_remembers_the_outputs(tmp_path):
    net = Hidden(dict).eval()
    plan = fxprune.plan(fxprune.couple(net, IMAGES, outputs="logits"), keep=0.5)
    plan.save(tmp_path / "plan.json")
    again = fxprune.load_plan(tmp_path / "plan.json", copy.deepcopy(net))
    assert again == plan
    assert again.coupling.outputs == fxprune.plan_for(copy.deepcopy(net), plan).coupling.outputs == ("logits",)
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "bad.json").write_text(text.replace('"logits"', "3"))
    with pytest.raises(PlanError):
        fxprune.load_plan(tmp_path / "bad.json", net)


def test_it_is_proven_saved_and_exported(tmp_path):
    net = Hidden(ModelOutput).eval()
    net.config = {"labels": ["cat", "dog"]}
    assert fxprune.prove(net, IMAGES, outputs="logits").passed
    plan = fxprune.plan(fxprune.couple(net, IMAGES, outputs="logits"), keep=0.5)
    narrow = fxprune.narrow(fxprune.snap(net, plan), plan)
    assert narrow.config == net.config
    fxprune.save(narrow, tmp_path / "out")
    assert torch.equal(fxprune.load(tmp_path / "out")(IMAGES).logits, narrow(IMAGES).logits)
    assert fxprune.export_onnx(narrow, IMAGES, tmp_path / "net.onnx").outputs == ("logits",)


REFUSED = {
    "unknown": ("scores", "there is no output `scores`: the network returns `logits`, `hidden.0`, `hidden.1`"),
    "past the end": ("hidden.3", "there is no output `hidden.3`"),
    "none": ([], "must be names or numbers"),
    "another type": (1.5, "must be names or numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unknown_outputs_are_refused(case):
    outputs, message = REFUSED[case]
    with pytest.raises(OptionError, match=message):
        fxprune.couple(Hidden(dict).eval(), IMAGES, outputs=outputs)


def test_a_single_tensor_needs_no_name():
    with pytest.raises(OptionError, match="returns one tensor, which needs no name"):
        fxprune.couple(nn.Conv2d(3, 3, 1), IMAGES, outputs=0)


@pytest.mark.parametrize(
    ("path", "place"), [("output", ""), ("output['aux'][0]", "aux.0"), ("output[1].logits", "1.logits")]
)
def test_a_path_has_a_place(path, place):
    assert place_of(path) == place


def test_what_holds_an_output_names_it():
    assert counts("hidden.3", ["hidden"])
    assert not counts("hidden.30", ["hidden.3"])
    assert counts("anything", None)


class Cache:
    """What a language model keeps for its next call; no container that anyone knows."""

    def __init__(self, x):
        self.x = x


class Cached(Hidden):
    """Returns its stream in an object, on its own or within another output."""

    def forward(self, x):
        y = self.block(self.stem(x).relu())
        return self.kind(logits=self.head(y), hidden=Cache(y))


@dataclass(frozen=True)
class Counted:
    """Has a field that its constructor does not take."""

    logits: object
    hidden: object
    count: int = field(init=False, default=1)


OTHERS = {"ordered": lambda **given: OrderedDict(**given), "field without an argument": Counted}


@pytest.mark.parametrize("name", OTHERS)
def test_an_object_is_left_out_of_a_container_of_any_class(name):
    model = Cached(OTHERS[name]).eval()
    found = fxprune.couple(model, IMAGES, outputs="logits").graph_module(IMAGES)
    logits = found.logits if name.startswith("field") else found["logits"]
    assert torch.equal(logits, model.head(model.block(model.stem(IMAGES).relu())))


@pytest.mark.parametrize("name", KINDS)
def test_an_object_that_does_not_count_is_none(name):
    kind, outputs, logits, is_gone = KINDS[name]
    model = Cached(kind).eval()
    coupling = fxprune.couple(model, IMAGES, outputs=outputs)
    plan = fxprune.plan(coupling, keep=0.5, method="even")
    snapped = fxprune.snap(model, plan)
    narrow = fxprune.narrow(snapped, plan)
    assert narrow.block.out_channels == 4  # of 8
    assert is_gone(narrow(IMAGES))
    torch.testing.assert_close(logits(narrow(IMAGES)), logits(snapped(IMAGES)))


def test_an_object_that_counts_is_refused_by_its_place():
    refusal = r"^Cached returns an object of Cache as `hidden`, which no graph holds: name the outputs"
    with pytest.raises(CaptureError, match=refusal):
        fxprune.couple(Cached(Plain), IMAGES)
    with pytest.raises(CaptureError, match=r"returns an object of Cache as `hidden`"):
        fxprune.couple(Cached(Plain), IMAGES, outputs=["logits", "hidden"])


class Predictor(nn.Module):
    """A library's object around its network, which returns an object alone."""

    def __init__(self, **inside):
        super().__init__()
        for name, network in inside.items():
            setattr(self, name, network)

    def forward(self, x):
        return SimpleNamespace(boxes=self.network(x))


@pytest.mark.parametrize(
    ("inside", "remedy"),
    [
        (("network",), "give the network inside, its `network`"),
        (("network", "other"), "let it return tensors in a tuple, dict or dataclass"),
    ],
)
def test_an_object_alone_is_refused_with_what_to_give_or_to_return(inside, remedy):
    model = Predictor(**{name: nn.Linear(3, 4) for name in inside}).eval()
    for outputs in (None, ["boxes"]):
        with pytest.raises(CaptureError, match=f"an object of SimpleNamespace as `output`.* {remedy}"):
            fxprune.couple(model, torch.randn(2, 3), outputs=outputs)


class Listed(nn.Linear):
    def forward(self, x):
        found = defaultdict(list)
        found["maps"].append(super().forward(x))
        return found


def test_a_defaultdict_is_returned_as_a_dict():
    model = Listed(3, 4).eval()
    graph, x = fxprune.couple(model, torch.randn(2, 3)).graph_module, torch.randn(5, 3)
    assert torch.equal(graph(x)["maps"][0], model(x)["maps"][0])
