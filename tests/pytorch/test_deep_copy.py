"""A copy by hand is the one that ``copy.deepcopy`` makes."""

import copy
import threading
from collections import OrderedDict

import torch
from torch import nn

from fxprune.pytorch.modules import clone_sharing, copy_module


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = {"a": [1, 2]}
        self.alias = self.table["a"]
        self.a = nn.Linear(2, 2)
        self.b = self.a
        self.pairs = (self.a, "x")
        self.rnn = nn.LSTM(2, 2)
        self.a.register_forward_hook(print)
        self.parents = [self]


class Own(nn.Module):
    def __deepcopy__(self, memo):
        memo[id(self)] = twin = Own()
        twin.by = "its own"
        return twin


def test_aliases_and_tables_are_as_before():
    wide = Odd()
    twin = clone_sharing(wide)
    assert twin.alias is twin.table["a"] is not wide.alias
    assert twin.a is twin.b is twin.pairs[0] is not wide.a
    assert twin.parents == [twin]
    assert twin.a.weight is wide.a.weight
    assert list(map(type, vars(twin.a).values())) == list(map(type, vars(copy.deepcopy(wide.a)).values()))
    assert list(twin.a._forward_hooks.values()) == [print]
    assert twin.a._forward_hooks is not wide.a._forward_hooks
    twin.rnn(torch.zeros(1, 1, 2))


def test_empty_tables_are_not_shared():
    wide, twin = nn.Linear(1, 1), clone_sharing(nn.Linear(1, 1))
    tables = [value for each in (wide, twin) for value in vars(each).values() if isinstance(value, (dict, set))]
    assert len(set(map(id, tables))) == len(tables)
    assert isinstance(twin._forward_hooks, OrderedDict)


def test_a_class_copies_itself_as_it_wants():
    assert copy_module(nn.Sequential(Own()))[0].by == "its own"


def test_what_a_call_kept_loses_its_history():
    wide = nn.Linear(2, 2)
    wide.kept = [wide.weight * 2]
    twin = copy_module(wide)
    assert twin.kept[0].is_leaf
    assert torch.equal(twin.kept[0], wide.kept[0])


class Coder:
    """An object that nothing can copy."""

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle a coder")


class Made(nn.Module):
    """Pickles the name of its coder, and makes it again."""

    def __init__(self):
        super().__init__()
        self.a, self.coder = nn.Linear(2, 2), Coder()

    def __getstate__(self):
        return {**vars(self), "coder": "coder"}

    def __setstate__(self, state):
        vars(self).update(state, coder=Coder())


def test_a_class_makes_again_what_cannot_be_copied():
    wide = nn.Sequential(Made())
    twin = clone_sharing(wide)
    assert isinstance(twin[0].coder, Coder) and twin[0].coder is not wide[0].coder
    assert twin[0].a.weight is wide[0].a.weight


class Unpicklable(nn.Module):
    """Says itself how it is copied, and is not to be pickled."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)

    def __getstate__(self):
        raise TypeError("no state")

    def __reduce_ex__(self, protocol):
        return _made_with, (self.a,)


def _made_with(layer):
    made = Unpicklable()
    made.a = layer
    return made


def test_a_class_without_a_state_is_copied_in_its_own_way():
    wide = nn.Sequential(Unpicklable())
    twin = clone_sharing(wide)
    assert twin[0] is not wide[0] and twin[0].a is not wide[0].a and twin[0].a.weight is wide[0].a.weight


def test_views_of_tables_are_those_of_the_copy():
    wide = nn.Module()
    wide.layers = nn.ModuleDict({"a": nn.Linear(2, 2)})
    wide.names, wide.each, wide.pairs = wide.layers.keys(), wide.layers.values(), {"b": [1]}.items()
    twin = copy_module(wide)
    assert [*twin.each] == [twin.layers["a"]] and twin.layers["a"] is not wide.layers["a"]
    twin.layers["c"] = nn.ReLU()
    assert [*twin.names] == ["a", "c"] and [*wide.names] == ["a"]
    ((name, listed),), ((_, before),) = twin.pairs, wide.pairs
    assert (name, listed) == ("b", [1]) and listed is not before


def test_modules_of_python_and_locks_are_shared():
    wide = nn.Linear(2, 2)
    wide.functions, wide.locks = nn.functional, [threading.Lock(), threading.RLock()]
    twin = copy_module(wide)
    assert twin.functions is nn.functional and twin.locks == wide.locks is not twin.locks
