"""What a network finds by a size is another thing at another size: the narrow one stops there, or computes the same."""

from __future__ import annotations

import enum
import functools
from collections import namedtuple

import pytest
import torch
from helpers.networks.middle import IMAGES, Small

from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture

Size = namedtuple("Size", "h w")
TABLES = {"12": 2.0, "12x12": 2.0, "08": 1.0, 12: 2.0, (12, 12): 2.0, (2, 8, 12, 12): 2.0}


@functools.cache
def remembered(size):
    return 2.0 if size == 12 else 1.0


def caught(size):
    try:
        return {12: 2.0}[size]
    except Exception:
        return 1.0


def indexed(size):
    try:
        return [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0][size]
    except Exception:
        return 1.0


def summed(size):
    try:
        return float(sum(range(size)))
    except TypeError:
        return 28.0


def matched(shape):
    match shape:
        case (_, _, 12, _):
            return 2.0
        case _:
            return 1.0


KEYS = {
    "a number": lambda y: TABLES.get(y.shape[2], 1.0),
    "a computed number": lambda y: TABLES.get(y.shape[2] // 2 * 2, 1.0),
    "a shape": lambda y: TABLES.get(y.shape, 1.0),
    "a part of a shape": lambda y: TABLES.get(y.shape[2:], 1.0),
    "a named tuple": lambda y: TABLES.get(Size(*y.shape[2:]), 1.0),
    "a set": lambda y: 2.0 if y.shape[2] in {1, 12} else 1.0,
    "a set of sizes": lambda y: float(len({y.shape[2], 12})),
    "a formatted text": lambda y: TABLES.get(f"{y.shape[2]}x{y.shape[3]}", 1.0),
    "a text with a format": lambda y: TABLES.get(f"{y.shape[2]:02d}", 1.0),
    "a text": lambda y: TABLES.get(str(y.shape[2]), 1.0),
    "a representation": lambda y: TABLES.get(f"{y.shape[2]!r}", 1.0),
    "a memo": lambda y: remembered(y.shape[2]),
    "a set, for a memo": lambda y: remembered(12 if y.shape[2] in {12} else 8),
    "an error that is caught": lambda y: caught(y.shape[2]),
    "an index, or an error that is caught": lambda y: indexed(y.shape[2]),
    "a range, or an error that is caught": lambda y: summed(y.shape[2]),
    "a pattern": lambda y: matched(y.shape),
    "a rounded number": lambda y: float(round(y.shape[2] / 10)),
}


@pytest.mark.parametrize("name", KEYS)
def test_another_thing_found_by_a_size_stops_the_graph(name):
    model = Small(lambda s, y: y * KEYS[name](y)).eval()
    captured = capture(model, (IMAGES,))
    assert torch.allclose(captured(IMAGES), model(IMAGES), atol=1e-6)  # float32
    with pytest.raises(SpecialisedError, match="captured where"):
        captured(torch.zeros(2, 3, 12, 12))


# What is decided by a type, which no comparison on the example shows.
TYPES = {
    "identity": lambda s, y: y * 2 if y.dtype is torch.float64 else y,
    "identity of that of a weight": lambda s, y: y * 2 if s.fc.weight.dtype is torch.float64 else y,
    "a set": lambda s, y: y * 2 if y.dtype in {torch.float64} else y,
    "a text": lambda s, y: y * 2 if f"{y.dtype}" == "torch.float64" else y,
    "a table": lambda s, y: y * {8: 2.0}.get(y.element_size(), 1.0),
}


@pytest.mark.parametrize("name", TYPES)
def test_another_thing_decided_by_a_type_stops_the_graph(name):
    captured = capture(Small(TYPES[name]).eval(), (IMAGES,))
    captured(torch.zeros(3, 3, 12, 12))
    with pytest.raises(SpecialisedError, match="captured where"):
        captured.double()(IMAGES.double())


@functools.lru_cache(maxsize=1)
def ramp(size):
    return torch.arange(size) / 8


def test_a_function_with_a_cache_is_traced_and_its_cache_forgets():
    ramp(8)
    captured = capture(Small(lambda s, y: y + ramp(y.shape[3])).eval(), (IMAGES,))
    assert captured.meta["fxprune_capture"] == "symbolic"
    assert ramp.cache_info().currsize <= 1
    images = torch.randn(3, 3, 12, 12)
    assert torch.equal(captured(images), Small(lambda s, y: y + ramp(y.shape[3])).eval()(images))


class Kind(enum.Enum):
    SINGLE = 1
    DOUBLE = 2


IDENTITIES = {
    "a member of an enum": lambda s, y: y.to(y.dtype) * (2 if s.kind is Kind.DOUBLE else 1),
    "a class of layers": lambda s, y: y.to(y.dtype) * (2 if type(s.b) is torch.nn.Linear else 1),
    "a constant": lambda s, y: y.to(y.dtype) * (2 if s.kind is None else 1),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_what_is_no_type_or_device_may_be_compared_by_its_identity(name):
    model = Small(IDENTITIES[name]).eval()
    model.kind = Kind.SINGLE
    captured = capture(model, (IMAGES,)).double()
    assert torch.equal(captured(IMAGES.double()), model.double()(IMAGES.double()))


def test_the_name_of_a_device_finds_what_it_does_in_the_model():
    model = Small(lambda s, y: y * {"cuda:0": 2.0, "meta": 3.0}.get(str(y.device), 1.0)).eval()
    captured = capture(model, (IMAGES,))
    assert "cuda" not in captured.code
    assert any("cpu" in map(str, node.args) for node in captured.graph.nodes)  # its guard
    assert torch.allclose(captured(IMAGES), model(IMAGES), atol=1e-6)  # float32


def test_a_memo_by_device_leaves_devices_open():
    def keeps(s, y):
        key = str(y.device)
        if key not in s.__dict__.setdefault("kept", {}):
            s.kept[key] = s.last + 1
        return y * s.kept[key]

    model = Small(keeps).eval()
    captured = capture(model, (IMAGES,))
    assert captured.meta["fxprune_capture"] == "symbolic"
    assert torch.allclose(captured(IMAGES), model(IMAGES), atol=1e-6)  # float32


def test_numbers_that_only_a_parser_asks_for_leave_sizes_open():
    model = Small(lambda s, y: torch.reshape(torch.roll(y, y.shape[2], 3), (y.shape[0], 8, y.shape[2], -1))).eval()
    captured, images = capture(model, (IMAGES,)), torch.randn(3, 3, 12, 12)
    assert captured.meta["fxprune_capture"] == "symbolic"
    assert torch.allclose(captured(images), model(images), atol=1e-6)  # float32


def test_what_a_trace_leaves_in_a_table_is_found_by_no_one():
    kept = {}

    def keeps(s, y):
        if y.shape[2] not in kept:
            kept[y.shape[2]] = torch.arange(float(y.shape[2]))
        return y + kept[y.shape[2]]

    model = Small(keeps).eval()
    captured = capture(model, (IMAGES,))
    assert type(model(IMAGES)) is torch.Tensor
    assert torch.allclose(captured(IMAGES), model(IMAGES), atol=1e-5)  # float32


def test_texts_that_are_only_told_leave_sizes_open():
    def tells(s, y):
        torch._assert(y.shape[2] > 3, f"too small: {y.shape[2]}, {y.shape}")
        print(f"{y.shape[0]} images", str(y.shape))
        return y

    model = Small(tells).eval()
    captured, images = capture(model, (IMAGES,)), torch.randn(3, 3, 12, 12)
    assert captured.meta["fxprune_capture"] == "symbolic"
    assert torch.allclose(captured(images), model(images), atol=1e-6)  # float32
