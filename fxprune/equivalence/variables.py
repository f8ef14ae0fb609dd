"""What the code of a network holds outside of tensors is as before, also inside of nests.

These are its attributes, those of its classes, global variables, and what closures hold. A trace would leave proxies
there, where the network finds them in its next call.
"""

from __future__ import annotations

import collections
import contextlib
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from .contents import attributes_of, is_own, kinds_of, reached

_MOST = 10_000  # containers
_OPAQUE = torch.Tensor, nn.Module, type, types.ModuleType, types.FunctionType
_MISSING = object()
_TABLES = dict, collections.OrderedDict, collections.defaultdict, collections.Counter


@contextlib.contextmanager
def variables_restored(modules: Collection[nn.Module]) -> Iterator[None]:
    """Restore them after the block."""
    restores, values = [], []
    for function, names in reached((*modules, *kinds_of(modules))).items():
        for scope, name in names:
            restores.append(_of_entry(scope, name))
            values.append(scope[name])
        for cell in function.__closure__ or ():
            if cell != types.CellType():
                restores.append(_of_attribute(cell, "cell_contents"))
                values.append(cell.cell_contents)
    for kind in kinds_of(modules):
        for name, value in attributes_of(kind):
            restores.append(_of_attribute(kind, name))
            values.append(value)
    for module in modules:
        values += [value for _, value in attributes_of(module)]
    restores += _of_containers(values)
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _of_entry(scope: dict[str, Any], name: str) -> Callable[[], None]:
    before = scope[name]

    def restore() -> None:
        if scope.get(name, _MISSING) is not before:
            scope[name] = before

    return restore


def _of_attribute(holder: Any, name: str) -> Callable[[], None]:
    before = vars(holder)[name] if isinstance(holder, type) else getattr(holder, name)

    def restore() -> None:
        now = vars(holder).get(name) if isinstance(holder, type) else getattr(holder, name, _MISSING)
        if now is not before:
            setattr(holder, name, before)

    return restore


def _of_containers(values: list[Any]) -> Iterator[Callable[[], None]]:
    """Yield what restores each list, table, set and object that values hold."""
    seen: dict[int, Any] = {}
    while values and len(seen) < _MOST:
        value = values.pop()
        if id(value) in seen or isinstance(value, _OPAQUE):
            continue
        if type(value) in _TABLES:
            inside, restore = [*value.values()], _of_table(value)
        elif type(value) in (list, collections.deque, set):
            inside, restore = [*value], _of_sequence(value)
        elif type(value) is tuple:
            inside, restore = [*value], None
        elif type(value) is types.SimpleNamespace or (is_own(type(value)) and hasattr(value, "__dict__")):
            inside, restore = [*vars(value).values()], _of_table(vars(value))
        else:
            continue
        seen[id(value)] = value
        values += inside
        if restore is not None:
            yield restore


def _of_table(table: dict[Any, Any]) -> Callable[[], None]:
    before = dict(table)

    def restore() -> None:
        same = len(table) == len(before) and all(a is b for a, b in zip(table, before, strict=True))
        if not same or any(table[key] is not value for key, value in before.items()):
            table.clear()
            table.update(before)

    return restore


def _of_sequence(sequence: Any) -> Callable[[], None]:
    before = [*sequence]

    def restore() -> None:
        if len(sequence) != len(before) or any(a is not b for a, b in zip(sequence, before, strict=True)):
            sequence.clear()
            (sequence.update if isinstance(sequence, set) else sequence.extend)(before)

    return restore
