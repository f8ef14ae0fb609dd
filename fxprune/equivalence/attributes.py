"""Detect results that a module keeps in its attributes for the next call.

Results that do not change are a cache: the second call finds them again. Results that each call reads and then replaces
make every call depend on the one before; so does a list, table or object whose numbers each call changes. What a call
of a copy changes in the model itself, which a closure of both holds, no copy shows.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import weakref
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, inputs_for, run_on
from fxprune.pytorch.data_writes import attribute_writes
from fxprune.pytorch.modules import device_of, map_tensors
from fxprune.pytorch.source import line_of
from fxprune.pytorch.torch_private import pytree

from .contents import contents_of, line_naming
from .example_values import changed, doubled, values_of
from .observation import try_to_observe
from .pair import Pair
from .preservation import preserved, unchanged

KEEPS = "the model keeps"


class Attributes:
    """The attributes that the modules of a network set and read in consecutive calls."""

    def __init__(self, model: nn.Module, leaf_modules: Collection[str] = ()) -> None:
        """Watch the modules of ``model``, except ``leaf_modules``: single nodes."""
        inside: set[str] = set()
        self._names: dict[int, str] = {0: ""}
        for name, module in model.named_modules():
            if name in leaf_modules or name.rpartition(".")[0] in inside:
                inside.add(name)
            if name not in inside or (name in leaf_modules and type(module).__module__.startswith("torch.nn.")):
                self._names[id(module)] = name
        self._set: dict[tuple[int, str], Any] = {}
        self._lines: dict[tuple[int, str], str] = {}
        self._kept: dict[tuple[int, str], None] = {}
        self._modules = [module for module in model.modules() if id(module) in self._names]
        self.changed_containers: set[tuple[int, str]] = set()  # by the latest call

    def _written(self, module: nn.Module, name: str, value: Any) -> None:
        if id(module) in self._names and name != "training":
            self._set[id(module), name] = pytree.tree_map_only(torch.Tensor, _detached_copy, value)
            self._lines[id(module), name] = line_of(sys._getframe(2))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch one call."""
        before, self._set = self._set, {}
        contents, changed = contents_of(self._modules), self.changed_containers
        with attribute_writes(self._written), self._reads(before) as asked:
            yield
        after, now = self._set, contents_of(self._modules)
        self.changed_containers = {key for key, leaves in now.items() if leaves != contents.get(key, [])}
        self._kept |= dict.fromkeys(sorted(changed & self.changed_containers - after.keys()))
        self._kept |= {key: None for key in asked if key in after and not _equal(before[key], after[key])}

    @contextlib.contextmanager
    def _reads(self, before: Collection[tuple[int, str]]) -> Iterator[dict[tuple[int, str], None]]:
        """Yield the attributes of ``before`` that are read before they are set again."""
        asked: dict[tuple[int, str], None] = {}
        if not before:
            yield asked
            return

        def read(module: nn.Module, name: str) -> Any:
            key = id(module), name
            if key in before and key not in self._set:
                asked[key] = None
            return object.__getattribute__(module, name)

        nn.Module.__getattribute__ = read  # type: ignore[method-assign,assignment]
        try:
            yield asked
        finally:
            del nn.Module.__getattribute__

    def kept(self) -> str:
        """Name the attributes that a call read from the one before and replaced, with their lines."""
        return ", ".join(f"`{self._path(key)}`{self._line_of(*key)}" for key in self._kept)

    def _line_of(self, owner: int, name: str) -> str:
        if (owner, name) in self._lines:
            return f" (set at {self._lines[owner, name]})"
        line = line_naming(name.rpartition(".")[2], [each for each in self._modules if owner in (0, id(each))])
        return f" (used at {line})" if line else ""

    def assigned(self) -> set[str]:
        """Return the names that the latest call set; for buffers, :meth:`kept` judges new ones."""
        return {self._path(key) for key in self._set}

    def with_lines(self, text: str) -> str:
        """Add the line behind each attribute that a text names."""
        for key, line in self._lines.items():
            text = text.replace(f"`{self._path(key)}`", f"`{self._path(key)}` (set at {line})")
        return text

    def _path(self, key: tuple[int, str]) -> str:
        return ".".join(filter(None, (self._names[key[0]], key[1])))


def attributes_set(model: nn.Module, inputs: Inputs) -> set[str]:
    """Run a copy of a model, and name the attributes that the call sets."""
    twin = map_tensors(model, lambda _, tensor: tensor.detach().clone())
    given, watched = inputs_for(twin, values_of(inputs, device_of(twin))), Attributes(twin)
    with unchanged(model), torch.no_grad(), watched.watched():
        run_on(twin, given)
    return watched.assigned()


def rewiring_of(model: nn.Module, module: nn.Module | None) -> str:
    """Say that hooks, layers or tensors of a module were changed; empty for None."""
    if module is None:
        return ""
    name = next(name for name, each in model.named_modules() if each is module)
    what = f"`{name}`" if name else f"the {type(module).__name__} itself"
    return f"{KEEPS} changes of the hooks, layers or tensors of {what}, which it makes from outside of it"


def changes_of_itself(pair: Pair, inputs: Inputs, setting: AbstractContextManager[object]) -> str:
    """Name what two calls of a copy change in attributes of the model; empty if nothing."""
    modules = list(pair.model.modules())
    names = {id(module): name for name, module in pair.model.named_modules()}
    for training in (False, True):
        with preserved(pair.model), torch.no_grad(), setting:
            model, states = pair.copy(pair.model).train(training), [contents_of(modules)]
            first = doubled(inputs) if training else inputs
            for given in (first, pytree.tree_map_only(Tensor, changed, first)):
                try_to_observe(model, given)
                states.append(contents_of(modules))
        one, two = ({key for key in b if b[key] != a.get(key)} for a, b in itertools.pairwise(states))
        for owner, name in sorted(one & two):
            return f"{KEEPS} `{'.'.join(filter(None, (names.get(owner, ''), name)))}` from one call to the next"
    return ""


def _detached_copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _equal(a: Any, b: Any) -> bool:
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    if len(left) != len(right):
        return False
    for x, y in zip(left, right, strict=True):
        if isinstance(x, weakref.ref) and isinstance(y, weakref.ref):
            x, y = x(), y()
        tensors = isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
        if tensors and not (x.shape == y.shape and x.dtype == y.dtype and torch.equal(x, y)):
            return False
        if not tensors and (type(x) is not type(y) or bool(x != y)):
            return False
    return True
