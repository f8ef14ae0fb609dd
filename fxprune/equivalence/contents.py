"""Describe what a network keeps outside of its tensors.

One walk starts at modules and their classes. It follows attributes, slots, hooks, nests with their keys, functions with
what they close over, their defaults and the global variables that they name, caches, iterators and generators, which
know how far they are, and random numbers. What a call changes there, a later call may read.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dis
import functools
import hashlib
import io
import itertools
import operator
import sys
import types
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import nn

from fxprune.common.objects import attribute_or, held_by, is_a, package_of, state_of, text_of
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.source import short
from fxprune.pytorch.torch_private import HOOKS_AND_LAYERS, versions_of

_PLAIN = bool, int, float, complex, str
_SINGLE = frozenset({type(None), *_PLAIN})
_OPAQUE = torch.Tensor, nn.Module, types.ModuleType, types.CodeType, types.FrameType
# The tables in which a module keeps its tensors, and what PyTorch keeps in classes.
_OF_TORCH = frozenset(vars(nn.Module())) - HOOKS_AND_LAYERS | {"dump_patches", "call_super_init"}
# Packages whose functions, classes and objects no network changes; except the objects of the second, which hold others.
_OF_PYTHON = sys.stdlib_module_names - {"__main__"}
_OTHERS = _OF_PYTHON | {"torch", "fxprune", "numpy", "_pytest", "pluggy"}
_HOLDERS = frozenset({
    "_thread", "argparse", "array", "builtins", "collections", "functools", "itertools", "numpy", "queue", "random",
    "types", "weakref",
})  # fmt: skip
_MOST = 10_000  # a larger nest is data
_NUMBERS = itertools.count()

_NESTS = list, tuple, dict, set, frozenset, types.MethodType, types.CellType

Contents = dict[tuple[int, str], list[str]]
# By identity of a module that holds only what nobody can change: names and values of its attributes, and contents.
Constants = dict[int, tuple[list[str], list[Any], Contents]]


def contents_of(
    modules: Collection[nn.Module], known: Constants | None = None, *, names: Mapping[int, str] | None = None
) -> Contents:
    """Map keys to descriptions: (id of a module, attribute), or (0, global variable).

    What two keys hold is described under the first one. ``known`` holds what an earlier call found, and gets more;
    with ``names``, of modules and stored tensors by identity, all that may be another one is told apart.
    """
    kinds = kinds_of(modules)
    variables = itertools.chain(*reached((*modules, *kinds)).values())
    named = sorted(variables, key=lambda variable: _is_function(variable[0][variable[1]]))
    values: dict[tuple[int, str], Any] = {(0, f"{scope.get('__name__')}.{name}"): scope[name] for scope, name in named}
    values |= {(0, f"{kind.__name__}.{name}"): value for kind in kinds for name, value in attributes_of(kind)}
    constants: Contents = {}
    known = {} if known is None else known
    for module in modules:
        if found := _constants_of(module, known):
            constants |= found
        else:
            values |= {(id(module), name): value for name, value in attributes_of(module)}
    seen: dict[int, tuple[int, Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of itertools, which stop to say how far they are
        return constants | {key: _description(value, seen, names) for key, value in values.items()}


def _constants_of(module: nn.Module, known: Constants) -> Contents | None:
    """Describe a module that holds only constants beside its tensors; None for others."""
    held = vars(module)
    names, values, contents = known.get(id(module), ([], [], {}))
    if any(map(held.get, HOOKS_AND_LAYERS)):  # layers or hooks
        return None
    if not contents or len(held) != len(names) or [*held] != names or not all(map(operator.is_, held.values(), values)):
        attributes = attributes_of(module)
        if not all(map(_is_constant, (value for _, value in attributes))):
            return None
        contents = {(id(module), name): [repr(value)] for name, value in attributes}
        known[id(module)] = [*held], [*held.values()], contents
    return contents


def _is_constant(value: Any) -> bool:
    return type(value) in _SINGLE or (type(value) is tuple and _SINGLE.issuperset(map(type, value)))


def configuration_of(model: nn.Module) -> str:
    """Hash what a network holds besides parameters and buffers, for this object and process."""
    names: dict[int, str] = {}
    everywhere = [*model.named_modules(remove_duplicate=False), *named_tensors(model)]
    held: list[Any] = [(path, names.setdefault(id(x), path)) for path, x in everywhere]
    held += [(path, id(module), id(type(module))) for path, module in model.named_modules()]
    contents = contents_of([*model.modules()], names=names)
    return hashlib.sha256(repr((held, sorted(contents.items()))).encode()).hexdigest()


def line_naming(name: str, modules: Collection[nn.Module]) -> str:
    """Return the first line that names an attribute or variable, those of constructors last."""
    functions = sorted(reached((*modules, *kinds_of(modules))), key=lambda each: each.__name__ == "__init__")
    codes = [each.__code__ for each in functions]
    for code in codes:
        for step in dis.get_instructions(code):
            if step.argval == name and step.positions is not None:
                return f"{short(code.co_filename)}:{step.positions.lineno}"
        codes += [each for each in code.co_consts if is_a(each, types.CodeType)]
    return ""


def kinds_of(modules: Iterable[nn.Module]) -> dict[type, None]:
    """Return the classes of modules that a network may be written in, as keys."""
    return dict.fromkeys(each for kind in dict.fromkeys(map(type, modules)) for each in kind.__mro__ if is_own(each))


def attributes_of(holder: Any) -> list[tuple[str, Any]]:
    """List what a module or class holds, without what PyTorch and Python keep there."""
    return [
        (name, value)
        for name, value in [*vars(holder).items()]
        if name not in _OF_TORCH and (name not in HOOKS_AND_LAYERS or value) and not name.startswith("__")
    ]


def _functions(values: Iterable[Any]) -> list[types.FunctionType]:
    return [each for each in values if type(each) is types.FunctionType and is_own(each)]


def _is_function(value: Any) -> TypeGuard[types.FunctionType]:
    return type(value) is types.FunctionType and is_own(value)


def is_own(of: Any) -> bool:
    """Tell whether a class or function is of a package that a network may be written in."""
    package = package_of(of)
    return package is not None and package not in _OTHERS


def _description(value: Any, seen: dict[int, tuple[int, Any]], names: Mapping[int, str] | None) -> list[str]:
    if _is_constant(value):  # most of them
        return [repr(value)]
    return [*itertools.islice(_leaves(value, seen, names), _MOST if names is None else None)]


def _leaves(value: Any, seen: dict[int, tuple[int, Any]], names: Mapping[int, str] | None) -> Iterator[str]:
    """Yield the types in a value, and its numbers, texts and names of functions, as text."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) in _SINGLE:
            yield repr(value)
            continue
        if is_a(value, bytes):
            yield str(bytes.__hash__(value))
            continue
        yield (value if is_a(value, types.BuiltinFunctionType) else type(value)).__name__
        if names is not None:
            yield names[id(value)] if id(value) in names else _told_apart(value)
        if id(value) in seen:
            yield from () if names is None else (str(seen[id(value)][0]),)
        elif names is not None and is_a(value, nn.Module) and id(value) not in names:
            seen[id(value)] = len(seen), value
            waiting.append(vars(value))
        elif not is_a(value, _OPAQUE):
            seen[id(value)] = len(seen), value  # so that no other gets its identity
            waiting += _held_in(value)


def _told_apart(value: Any) -> str:
    """Return what tells a value from others of its type, as long as both live."""
    if is_a(value, types.FunctionType):
        return str(id(value.__code__))
    if not is_a(value, torch.Tensor):
        return "" if type(value) in _NESTS else f"{id(value)} {_value_of(value)}"
    written = f"{id(value)} {versions_of([value])}"
    if type(value) not in (torch.Tensor, nn.Parameter) or value.is_meta or value.layout != torch.strided:
        return written
    if value.is_quantized or value.is_conj() or value.is_neg():
        return written
    numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{value.dtype} {value.shape} {value.device} {hashlib.sha256(numbers.data).hexdigest()}"


def _value_of(value: Any) -> str:
    """Return what an object of Python holds; one that replaces it may get its identity."""
    with contextlib.suppress(Exception):
        if package_of(type(value)) in _OF_PYTHON:
            return repr(_pickled(value, needed=False))
    return ""


def _held_in(value: Any) -> list[Any]:
    """Return what a value holds; nothing, if no network changes it."""
    if type(value) is dict:
        return [*value, *value.values()]
    if type(value) in (list, tuple):
        return [*value]
    if is_a(value, types.FunctionType):
        held = [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value) or None]
        return held + [scope[name] for scope, name in _globals_named(value)] if is_own(value) else []
    if is_a(value, torch.Generator):
        return [value.get_state().numpy().tobytes()]
    if is_a(value, contextvars.ContextVar):
        return [value.get(None)]
    if is_a(value, io.IOBase):
        return _position(value)
    if is_a(value, type):
        return [held for kind in value.__mro__ if is_own(kind) for _, held in attributes_of(kind)]
    kind: Any = next(each for each in type(value).__mro__ if not is_own(each))
    parts = [type(value), state_of(value)] if kind is not type(value) else [attribute_or(value, "__dict__")]
    if kind is object:
        return parts
    is_iterator = is_a(value, Iterator)
    if package_of(kind) not in _HOLDERS and not is_iterator:
        return parts if kind is not type(value) else []
    if is_a(value, dict):
        return [*parts, *kind.keys(value), *kind.values(value)]
    if is_a(value, set | frozenset):
        held = kind.__iter__(value)
        return [*parts, *sorted(held, key=lambda each: text_of(each) if is_a(each, (*_PLAIN, tuple)) else "")]
    if is_a(value, list | tuple | collections.deque):
        return [*parts, *kind.__iter__(value)]
    if is_a(value, types.GeneratorType):
        parts.append(None if value.gi_frame is None else value.gi_frame.f_lasti)
    parts += held_by(value)
    if not is_a(value, types.GeneratorType | types.CellType):
        return [*parts, *_pickled(value, needed=is_iterator)]
    return parts


def _position(file: io.IOBase) -> list[Any]:
    """Return how far a file is read; what is only written, as a log, tells a network nothing."""
    if file.closed or not (file.readable() and file.seekable()):
        return []
    if isinstance(file, io.StringIO | io.BytesIO):
        return [file.getvalue(), file.tell()]
    with contextlib.suppress(OSError):  # in the middle of a loop over lines
        return [file.tell()]
    return [next(_NUMBERS)]


def _pickled(value: Any, *, needed: bool) -> tuple[Any, ...]:
    """Return what a pickle of a value would hold; a new number where one is needed and fails."""
    with contextlib.suppress(Exception):
        stored = value.__reduce_ex__(4)
        return stored[1:3] if isinstance(stored, tuple) else ()
    return (next(_NUMBERS),) if needed else ()


def _globals_named(function: types.FunctionType) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the global variables that a function names, of its module or one that it names."""
    names = names_in(function.__code__)
    there = map(function.__globals__.get, names)
    for scope in (function.__globals__, *(vars(each) for each in there if is_a(each, types.ModuleType))):
        if str(scope.get("__name__")).partition(".")[0] not in _OTHERS:
            yield from ((scope, name) for name in names if name in scope)


def reached(holders: Iterable[Any]) -> dict[types.FunctionType, list[tuple[dict[str, Any], str]]]:
    """Map functions in attributes, and those that they name, to their global variables."""
    waiting = [each for holder in holders for each in _functions(vars(holder).values())]
    found: dict[types.FunctionType, list[tuple[dict[str, Any], str]]] = {}
    while waiting:
        function = waiting.pop()
        if function not in found:
            found[function] = [*_globals_named(function)]
            held = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
            waiting += _functions((*(scope[name] for scope, name in found[function]), *held))
    return found


@functools.cache
def names_in(code: types.CodeType) -> frozenset[str]:
    """Return the names that code looks up, also in functions inside it."""
    inside = [names_in(each) for each in code.co_consts if is_a(each, types.CodeType)]
    return frozenset(code.co_names).union(*inside)
