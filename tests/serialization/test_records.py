"""Outputs in classes of their own: `narrow` keeps the class, and files keep the fields under their names."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from helpers.rewrites.merges import narrow_snapped
from torch import nn
from torch.utils import _pytree as pytree

import fxprune
from fxprune.arguments.records import Record, named_tuple
from fxprune.passes.lowering import why_not
from fxprune.passes.onnx import export_pt2
from fxprune.passes.verify import named_outputs

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Tuple(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Data:
    logits: torch.Tensor
    hidden: torch.Tensor
    loss: torch.Tensor | None = None


class Keys(dict):
    pass


class Ordered(OrderedDict):
    """What the outputs of transformers do: fields that are attributes, keys and places."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                super().__setitem__(field.name, value)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


@dataclasses.dataclass
class Output(Ordered):
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


# Libraries tell PyTorch how to take their outputs apart, often without names.
pytree.register_pytree_node(
    Output,
    lambda out: (list(out.values()), list(out)),
    lambda values, names: Output(**dict(zip(names, values, strict=True))),
)


class Net(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.stem, self.head, self.side, self.make = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(3, 4, 5), make

    def forward(self, x):
        return self.make(self.head(self.stem(x).relu()), self.side(x))


MAKE = {
    "named tuple": Tuple,
    "dataclass": Data,
    "dict": lambda a, b: Keys(logits=a, hidden=b),
    "output of a library": lambda a, b: Output(logits=a, hidden=b),
}
BY_KEY = ("dataclass", "dict", "output of a library")


def narrowed(net):
    plan = fxprune.plan(fxprune.couple(net, X), keep=0.5)
    return narrow_snapped(net, plan)


def network(kind):
    torch.manual_seed(0)
    return Net(MAKE[kind]).eval()


@pytest.fixture(scope="module", params=MAKE)
def case(request, tmp_path_factory):
    net = network(request.param)
    narrow = narrowed(net)
    folder = tmp_path_factory.mktemp("records") / "out"
    fxprune.save(narrow, folder)
    return request.param, net, narrow, folder


def test_the_narrow_network_returns_the_class_of_the_original(case):
    _, net, narrow, _ = case
    assert type(narrow(X)) is type(net(X))


def test_a_loaded_network_gives_the_fields_by_name_and_in_order(case):
    kind, _, narrow, folder = case
    wanted, found = tuple(named_outputs(narrow(X)).values()), fxprune.load(folder)(X)
    assert type(found).__module__ == "fxprune.arguments.records"
    assert all(map(torch.equal, wanted, (found.logits, found.hidden)))
    assert all(map(torch.equal, wanted, (found[0], found[1])))
    if kind in BY_KEY:
        assert all(map(torch.equal, wanted, (found["logits"], found["hidden"])))
    if kind in ("dataclass", "output of a library"):
        assert found.loss is None


def test_a_loaded_network_is_narrowed_and_saved_again(case, tmp_path):
    *_, folder = case
    again = narrowed(fxprune.load(folder))
    fxprune.save(again, tmp_path / "again")
    wanted, found = again(X), fxprune.load(tmp_path / "again")(X)
    assert named_outputs(found).keys() == named_outputs(wanted).keys()
    assert torch.equal(found.logits, wanted.logits)


def test_files_for_pytorch_alone_hold_dicts_and_tuples(case, tmp_path, forked):
    kind, _, narrow, _ = case
    fxprune.export_python(narrow, X, tmp_path / "net.py")
    assert ('"logits": ' in (tmp_path / "net.py").read_text()) == (kind in BY_KEY)
    export_pt2(narrow, X, tmp_path / "net.pt2")
    found = torch.export.load(tmp_path / "net.pt2").module()(X)
    logits = found["logits"] if kind in BY_KEY else found[0]
    torch.testing.assert_close(logits, next(iter(named_outputs(narrow(X)).values())))


def test_a_record_is_copied_and_pickled_whole():
    record = Record({"a": 1, "b": None})
    assert copy.deepcopy(record) == record == pickle.loads(pickle.dumps(record))
    assert Record({"a": 1, "b": None, "c": 2})[:2] == (1, 2)
    with pytest.raises(AttributeError, match="has the fields a, b, and no `c`"):
        _ = record.c
    with pytest.raises(KeyError):
        _ = record["c"]


NAMES = [("x; import os", ("a",)), ("T", ("a b",)), ("T", ("class",)), ("T", ("_a",)), ("T", "ab"), ("T",)]
NAMES += [("T", ("a", "a"), (1, 2)), ("T", ("a",), (1, 2)), ("T", ("a", "b"), 3)]


@pytest.mark.parametrize("args", NAMES)
def test_a_tuple_with_other_names_is_not_made(args):
    assert "it makes a tuple with the names" in why_not(named_tuple, args)
