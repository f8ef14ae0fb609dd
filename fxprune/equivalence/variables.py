"""Restore variables outside of a network that got a tensor of a trace or copy.

That is what it keeps in variables, classes and closures, where the network would find it in its next call. What got a
tensor or a proxy is as before, and a new name that did goes; anything else stays, since another thread may have put it
there. The network's own attributes are always as before.
"""

from __future__ import annotations

import collections
import contextvars
import threading
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.common.objects import CACHE, are_same, held_by, is_a, table_of

from .contents import attributes_of, is_own, kinds_of, reached

_MOST = 10_000  # containers
_OPAQUE = torch.Tensor, nn.Module, type, types.ModuleType, types.FunctionType
_MISSING = object()
_SEQUENCES = list, collections.deque, set
_Restore = Callable[[], bool | None]  # tells whether something had changed, where that matters
_CONTAINERS: tuple[Any, ...] = collections.OrderedDict, dict, tuple, *_SEQUENCES


class Variables:
    """The variables, classes and closures that the code of modules names, as they are."""

    def __init__(self, modules: Collection[nn.Module]) -> None:
        """Note all of them, and what attributes of the modules hold."""
        self._restores: list[_Restore] = []
        values: list[Any] = []
        self._scopes: dict[int, tuple[dict[str, Any], set[str]]] = {}
        own = [value for module in modules for _, value in attributes_of(module)]
        kinds = kinds_of(modules)
        for function, names in reached((*modules, *kinds)).items():
            if id(function.__globals__) not in self._scopes:
                self._scopes[id(function.__globals__)] = function.__globals__, set(function.__globals__)
            values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
            for scope, name in names:
                self._restores.append(_of_entry(scope, name))
                values.append(scope[name])
            for cell in function.__closure__ or ():
                if cell != types.CellType():  # an empty one
                    self._restores.append(_of_cell(cell))
                    values.append(cell.cell_contents)
        for kind in kinds:
            for name, value in attributes_of(kind):
                self._restores.append(_of_class(kind, name))
                values.append(value)
        self._kinds = [(kind, set(vars(kind))) for kind in kinds]
        self._restores += _of_containers(values)
        self._own = [*_of_containers(own, always=True)]

    def restore(self) -> bool:
        """Restore what got a tensor or a proxy since, and remove new names that did.

        Returns:
            Whether lists, tables or objects in attributes had changed.
        """
        for restore in self._restores:
            restore()
        changed = [restore() for restore in self._own]
        for scope, known in self._scopes.values():
            for name in _new_names(scope, known):
                del scope[name]
        for kind, known in self._kinds:
            for name in _new_names(vars(kind), known):
                delattr(kind, name)
        return any(changed)


def _is_of_call(value: Any, depth: int = 2) -> bool:
    """Tell whether a value is, or holds, a tensor, an array or a proxy."""
    if is_a(value, (torch.Tensor, np.ndarray, fx.Proxy)):
        return True
    return depth > 0 and is_a(value, _CONTAINERS) and any(_is_of_call(each, depth - 1) for each in members_of(value))


def python_class_of(container: Any) -> Any:
    """Return the class of Python that a container is derived from, which does no more."""
    return next(kind for kind in _CONTAINERS if is_a(container, kind))


def members_of(container: Any) -> list[Any]:
    """List what a container of a class of Python, or of one derived from it, holds."""
    base = python_class_of(container)
    return [*(base.values(container) if issubclass(base, dict) else base.__iter__(container))]


def keys_of(table: dict[Any, Any]) -> list[Any]:
    """List the keys of a table."""
    return [*python_class_of(table).__iter__(table)]


def refill(container: Any, values: Iterable[Any]) -> None:
    """Let a container hold these values, or pairs of keys and values, and nothing else."""
    base = python_class_of(container)
    base.clear(container)
    if issubclass(base, dict):
        for key, value in values:
            base.__setitem__(container, key, value)
    else:
        (base.update if base is set else base.extend)(container, values)


def _new_names(scope: Mapping[str, Any], before: set[str]) -> list[str]:
    return [name for name, value in scope.items() if name not in before and _is_of_call(value)]


def _is_new(value: Any, before: Iterable[Any]) -> bool:
    return _is_of_call(value) and all(value is not each for each in before)


def _of_entry(scope: dict[str, Any], name: str) -> Callable[[], None]:
    before = scope[name]

    def restore() -> None:
        now = scope.get(name, _MISSING)
        if now is _MISSING or (now is not before and _is_of_call(now)):
            scope[name] = before

    return restore


def _of_cell(cell: types.CellType) -> Callable[[], None]:
    before = cell.cell_contents

    def restore() -> None:
        if cell == types.CellType() or (cell.cell_contents is not before and _is_of_call(cell.cell_contents)):
            cell.cell_contents = before

    return restore


def _of_class(kind: type, name: str) -> Callable[[], None]:
    before = vars(kind)[name]

    def restore() -> None:
        now = vars(kind).get(name, _MISSING)
        if now is _MISSING or (now is not before and _is_of_call(now)):
            setattr(kind, name, before)

    return restore


def _of_containers(values: list[Any], *, always: bool = False) -> Iterator[_Restore]:
    """Yield what restores each list, table, set and object that values hold.

    Not ``always``: only where it got a tensor or a proxy.
    """
    seen: dict[int, Any] = {}
    while values and len(seen) < _MOST:
        value = values.pop()
        if id(value) in seen or is_a(value, _OPAQUE):
            continue
        restores: list[_Restore] = []
        if is_a(value, dict):
            inside, restores = members_of(value), [_of_table(value, always)]
        elif is_a(value, _SEQUENCES):
            inside, restores = members_of(value), [_of_sequence(value, always)]
        elif type(value) is tuple:
            inside = [*value]
        elif is_a(value, CACHE):
            inside, restores = [], [_of_cache(value)]
        elif is_a(value, contextvars.ContextVar):
            inside, restores = [value.get(None)], [_of_context(value)]
        elif type(value) in (types.SimpleNamespace, threading.local) or is_own(type(value)):
            table, slots = table_of(value), _slots(value)
            inside = [*table.values(), *(_in_slot(each, value) for each in slots)]
            restores = [_of_table(table, always), *(_of_slot(each, value, always) for each in slots)]
        else:
            continue
        seen[id(value)] = value
        values += inside
        yield from restores


def _of_table(table: dict[Any, Any], always: bool) -> _Restore:
    keys, values = keys_of(table), members_of(table)

    def restore() -> bool:
        now = members_of(table)
        same = are_same(now, values) and are_same(keys_of(table), keys)
        if changed := not same and (always or any(_is_new(value, values) for value in now)):
            refill(table, zip(keys, values, strict=True))
        return changed

    return restore


def _of_cache(function: Any) -> Callable[[], None]:
    before = _results_in(function)

    def restore() -> None:
        if any(_is_new(value, before) for value in _results_in(function)):
            function.cache_clear()

    return restore


def _results_in(function: Any) -> list[Any]:
    """List what a function keeps, among it its results: an unbounded one has them in a table."""
    return [each for held in held_by(function) for each in (held.values() if type(held) is dict else (held,))]


def _slots(value: Any) -> list[types.MemberDescriptorType]:
    """List the slots of an object, in which its class keeps attributes without a table."""
    held = [each for kind in type(value).__mro__ if is_own(kind) for each in vars(kind).values()]
    return [each for each in held if type(each) is types.MemberDescriptorType]


def _in_slot(slot: types.MemberDescriptorType, holder: Any) -> Any:
    try:
        return slot.__get__(holder)
    except AttributeError:
        return _MISSING


def _of_slot(slot: types.MemberDescriptorType, holder: Any, always: bool) -> _Restore:
    before = _in_slot(slot, holder)

    def restore() -> bool:
        now = _in_slot(slot, holder)
        if now is before or not (always or _is_of_call(now)):
            return False
        if before is _MISSING:
            slot.__delete__(holder)
        else:
            slot.__set__(holder, before)
        return True

    return restore


def _of_context(variable: contextvars.ContextVar[Any]) -> Callable[[], None]:
    try:
        before = variable.get()
    except LookupError:  # nothing can remove what is set
        before = None

    def restore() -> None:
        now = variable.get(None)
        if now is not before and _is_of_call(now):
            variable.set(before)

    return restore


def _of_sequence(sequence: Any, always: bool) -> _Restore:
    before = members_of(sequence)

    def restore() -> bool:
        now = members_of(sequence)
        if changed := not are_same(now, before) and (always or any(_is_new(value, before) for value in now)):
            refill(sequence, before)
        return changed

    return restore
