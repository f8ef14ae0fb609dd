"""What a network finds by a size is another thing at another size: the narrow one stops there, or computes the same."""

from __future__ import annotations

import contextvars
import functools
import itertools
import random
import types
from collections import namedtuple

import numpy as np
import pytest
import torch
from helpers.middle import IMAGES, Small

import fxprune
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture.trace import capture
from fxprune.errors import CaptureError

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


def test_the_name_of_a_device_finds_what_it_does_in_the_model():
    model = Small(lambda s, y: y * {"cuda:0": 2.0, "meta": 3.0}.get(str(y.device), 1.0)).eval()
    captured = capture(model, (IMAGES,))
    assert "cuda" not in captured.code
    assert any("cpu" in map(str, node.args) for node in captured.graph.nodes)  # its guard
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
        torch._assert(
            y.shape[2] > 3,
            f"too small: {y.shape[2]}, {y.shape}",
        )
        print(f"{y.shape[0]} images", str(y.shape))
        return y

    model = Small(tells).eval()
    captured, images = capture(model, (IMAGES,)), torch.randn(3, 3, 12, 12)
    assert captured.meta["fxprune_capture"] == "symbolic"
    assert torch.allclose(captured(images), model(images), atol=1e-6)  # float32


def counter():
    number = 0

    def count():
        nonlocal number
        number += 1
        return number

    return count


def numbers():
    yield from range(50)


NUMBERS = numbers()


class Steps:
    number = 0

    def step(self):
        self.number += 1
        return self.number


def counts_in_a_keyword():
    def count(*, kept=[0]):  # noqa: B006
        kept[0] += 1
        return kept[0]

    return count


def counts_in_an_array():
    kept = np.zeros(1)

    def count():
        kept[0] += 1
        return kept[0]

    return count


def counts_behind_a_method():
    count = counter()
    return types.MethodType(lambda _: count(), object())


class Slots:
    __slots__ = ("number",)

    def __init__(self):
        self.number = 0

    def __call__(self):
        self.number += 1
        return self.number

    __next__ = __call__

    def __iter__(self):
        return self

    def __reduce__(self):
        return "Slots"


def counts_in_a_class():
    class Kept:
        number = 0

    def count():
        Kept.number += 1
        return Kept.number

    return count


def counts_in_a_length(make, add):
    def count():
        add(kept)
        return len(kept)

    kept = make()
    return count


def counts_in_a_cache():
    kept = functools.cache(lambda: [0])

    def count():
        kept()[0] += 1
        return kept()[0]

    return count


def counts_in_a_context(kept):
    def count():
        kept.set(kept.get() + 1)
        return kept.get()

    return count


def drawn(generator):
    return int(torch.randint(18, (), generator=generator))


def counts_in_bytes():
    kept = bytearray(1)

    def count():
        kept[0] += 1
        return kept[0]

    return count


def counts_in_an_attribute_of_itself():
    def count():
        count.number = getattr(count, "number", 0) + 1
        return count.number

    return count


STATES = {
    "slots": Slots,
    "slots behind an iterator": lambda: functools.partial(next, Slots()),
    "slots in a key": lambda: functools.partial(lambda kept: next(iter(kept))(), {Slots(): 1}),
    "a class": counts_in_a_class,
    "the length of a list": lambda: counts_in_a_length(list, lambda kept: kept.append(None)),
    "the length of a list of tensors": lambda: counts_in_a_length(list, lambda kept: kept.append(torch.zeros(1))),
    "the length of a set": lambda: counts_in_a_length(set, lambda kept: kept.add((len(kept), 1))),
    "the keys of a table": lambda: counts_in_a_length(dict, lambda kept: kept.setdefault(f"{len(kept)}")),
    "a cached function": counts_in_a_cache,
    "bytes": counts_in_bytes,
    "an attribute of a function": counts_in_an_attribute_of_itself,
    "a variable of a context": lambda: counts_in_a_context(contextvars.ContextVar("kept", default=0)),
    "random numbers of PyTorch": lambda: functools.partial(drawn, torch.Generator().manual_seed(0)),
    "a closure": counter,
    "a default of a keyword": counts_in_a_keyword,
    "an array of numpy": counts_in_an_array,
    "the function of a bound method": counts_behind_a_method,
    "a cycle": lambda: functools.partial(next, itertools.cycle(range(50))),
    "an iterator": lambda: functools.partial(next, iter(range(50))),
    "a bound method": lambda: Steps().step,
    "a generator of random numbers": lambda: functools.partial(random.Random(0).randrange, 20),
}


@pytest.mark.parametrize("name", STATES)
def test_what_is_counted_outside_of_attributes_is_state(name):
    model = Small(lambda s, y: y * 2 if s.count() > 18 else y)  # as no call of the comparison shows
    model.count = STATES[name]()
    with pytest.raises(CaptureError, match="keeps `count` from one call to the next"):
        fxprune.couple(model.eval(), IMAGES)


def counts_in_a_layer(s, y):
    s.a.number = getattr(s.a, "number", 0) + 1
    return y * 2 if s.a.number > 18 else y


def counts_in_hooks(s, y):
    s.a.register_forward_pre_hook(lambda module, args: None)
    return y * 2 if len(s.a._forward_pre_hooks) > 18 else y


def counts_in_its_table(s, y):
    vars(s)["number"] = vars(s).get("number", 0) + 1
    return y * 2 if s.number > 18 else y


@pytest.mark.parametrize(
    ("middle", "name"),
    [(counts_in_a_layer, "a.number"), (counts_in_hooks, "a._forward_pre_hooks"), (counts_in_its_table, "number")],
)
def test_what_is_counted_in_modules_is_state(middle, name):
    with pytest.raises(CaptureError, match=f"keeps `{name}`"):
        fxprune.couple(Small(middle).eval(), IMAGES)


def test_what_a_hook_counts_is_state():
    model, count = Small().eval(), counter()
    model.fc.register_forward_hook(lambda module, args, y: y * 2 if count() > 18 else y)
    with pytest.raises(CaptureError, match=r"keeps `fc\._forward_hooks`"):
        fxprune.couple(model, IMAGES)


def test_a_generator_that_each_call_advances_is_state():
    model = Small(lambda s, y: y * 2 if next(NUMBERS) > 40 else y).eval()
    with pytest.raises(CaptureError, match=r"keeps `.*test_keys.NUMBERS` from one call to the next"):
        fxprune.couple(model, IMAGES)


def test_what_cannot_be_copied_is_named():
    model = Small(lambda s, y: y * next(s.count)).eval()
    model.count = numbers()
    with pytest.raises(CaptureError, match="cannot copy `count` of Small: cannot pickle 'generator'"):
        fxprune.couple(model, IMAGES)
