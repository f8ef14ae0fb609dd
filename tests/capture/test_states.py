"""What a network keeps from one call to the next, wherever it keeps it, is no part of a graph: it is refused."""

from __future__ import annotations

import argparse
import contextvars
import functools
import io
import itertools
import os
import random
import types

import numpy as np
import pytest
import torch
from helpers.networks.middle import IMAGES, Small

import fxprune
from fxprune.errors import CaptureError


def counter():
    number = 0

    def count():
        nonlocal number
        number += 1
        return number

    return count


def numbers():
    yield from range(50)


NUMBERS, FILE = numbers(), None


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


def counts_in_options():
    kept = argparse.Namespace(number=0)

    def count():
        kept.number += 1
        return kept.number

    return count


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
    "options": counts_in_options,
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
    with pytest.raises(CaptureError, match=r"keeps `count` \(used at \S+:\d+\) from one call to the next"):
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
    with pytest.raises(CaptureError, match=r"keeps `.*test_states.NUMBERS` .* from one call to the next"):
        fxprune.couple(model, IMAGES)


def reads_the_next_line(s, y):
    return y * 2 if len(FILE.readline()) > 9 else y


def loops_over_lines(s, y):
    return y * 2 if len(next(FILE)) > 9 else y


@pytest.mark.parametrize("middle", [reads_the_next_line, loops_over_lines])
def test_how_far_a_file_is_read_is_state(monkeypatch, tmp_path, middle):
    (tmp_path / "lines").write_text("\n" * 99)
    with open(tmp_path / "lines") as file:
        monkeypatch.setitem(globals(), "FILE", file)
        with pytest.raises(CaptureError, match=r"keeps `.*test_states.FILE` \(used at capture/test_states.py:\d+\)"):
            fxprune.couple(Small(middle).eval(), IMAGES)


def test_what_a_buffer_of_text_holds_is_state(monkeypatch):
    monkeypatch.setitem(globals(), "FILE", io.StringIO())
    model = Small(lambda s, y: y * 2 if FILE.write("a") and len(FILE.getvalue()) > 18 else y).eval()
    with pytest.raises(CaptureError, match=r"keeps `.*test_states.FILE`"):
        fxprune.couple(model, IMAGES)


def test_a_log_is_no_state(monkeypatch):
    with open(os.devnull, "w") as file:
        monkeypatch.setitem(globals(), "FILE", file)
        assert fxprune.couple(Small(lambda s, y: (print("called", file=FILE), y)[1]).eval(), IMAGES).groups


def test_what_cannot_be_copied_is_named():
    model = Small(lambda s, y: y * next(s.count)).eval()
    model.count = numbers()
    with pytest.raises(CaptureError, match="cannot copy `count` of Small: cannot pickle 'generator'"):
        fxprune.couple(model, IMAGES)
