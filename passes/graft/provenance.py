"""Numbers that remember which attribute of which module they come from, through arithmetic.

While a model with such numbers in place of its own is traced, each literal of the graph says where it comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

Number = int | float


@dataclass(frozen=True)
class Attribute:
    """A number that a module holds, also inside of lists and dicts."""

    module: str
    keys: tuple[str | int, ...]

    def __str__(self) -> str:
        first, *rest = self.keys
        path = f"{self.module}.{first}" if self.module else str(first)
        return path + "".join(f"[{key!r}]" for key in rest)


@dataclass(frozen=True)
class Arithmetic:
    """An arithmetic operation on terms."""

    function: Callable[..., Any]
    terms: tuple[Term, ...]


Term = Number | Attribute | Arithmetic


class Traced:
    """A number with its term; arithmetic with it gives such numbers."""

    term: Term

    def __deepcopy__(self, memo: Any) -> Traced:
        return self

    def __reduce__(self) -> Any:
        return type(plain(self)), (plain(self),)


def _binary(function: Callable[..., Any], *, swapped: bool) -> Callable[[Any, Any], Any]:
    def compute(one: Any, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        pair = (other, one) if swapped else (one, other)
        if isinstance(other, bool):  # such as a flag of the mode
            return function(*map(plain, pair))
        return number(function(*map(plain, pair)), Arithmetic(function, tuple(map(term_of, pair))))

    return compute


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Traced, f"__{_name}__", _binary(getattr(operator, _name), swapped=False))
    setattr(Traced, f"__r{_name}__", _binary(getattr(operator, _name), swapped=True))
setattr(Traced, "__neg__", lambda one: number(-plain(one), Arithmetic(operator.neg, (one.term,))))  # noqa: B010


class TracedInt(Traced, int):
    """An integer with its term."""


class TracedFloat(Traced, float):
    """A float with its term."""


def number(value: Any, term: Term) -> Any:
    """Make a number that remembers its term; any other value stays as it is."""
    if type(value) not in (int, float):
        return value
    made: Any = TracedInt(value) if type(value) is int else TracedFloat(value)
    made.term = term
    return made


def plain(value: Any) -> Any:
    """Return the plain number."""
    return int(value) if isinstance(value, int) else float(value)


def term_of(value: Any) -> Term:
    """Return where a number comes from; a plain number is its own term."""
    term: Term = value.term if isinstance(value, Traced) else value
    return term


def attributes_of(term: Term) -> Iterator[Attribute]:
    """Yield the attributes in a term."""
    if isinstance(term, Attribute):
        yield term
    elif isinstance(term, Arithmetic):
        for each in term.terms:
            yield from attributes_of(each)


def value_of(term: Term, values: Mapping[Attribute, Number]) -> Any:
    """Compute a term."""
    if isinstance(term, Attribute):
        return values[term]
    if isinstance(term, Arithmetic):
        return term.function(*(value_of(each, values) for each in term.terms))
    return term


def solve(term: Term, wanted: Number, unknown: Attribute, values: Mapping[Attribute, Number]) -> Number | None:
    """Find the value of one attribute for which a term, in which it stands once, is ``wanted``."""
    if term == unknown:
        return wanted
    if not isinstance(term, Arithmetic):
        return None
    inside = [unknown in set(attributes_of(each)) for each in term.terms]
    if sum(inside) != 1:
        return None
    place = inside.index(True)
    try:
        if len(term.terms) == 1:
            inner: Any = -wanted
        else:
            inner = _INVERSE[term.function][place](wanted, value_of(term.terms[1 - place], values))
    except (KeyError, ArithmeticError):
        return None
    return solve(term.terms[place], inner, unknown, values)


def _exact(a: Any, b: Any) -> Any:
    return a // b if isinstance(a, int) and isinstance(b, int) and b and a % b == 0 else a / b


# function -> the inverse in the first operand, and in the second: (result, other operand) -> operand.
_INVERSE: dict[Callable[..., Any], tuple[Callable[..., Any], Callable[..., Any]]] = {
    operator.add: (operator.sub, operator.sub),
    operator.sub: (operator.add, lambda result, other: other - result),
    operator.mul: (_exact, _exact),
    operator.truediv: (operator.mul, lambda result, other: _exact(other, result)),
    operator.floordiv: (operator.mul, lambda result, other: other // result),
    operator.pow: (lambda result, other: result ** (1 / other), lambda result, other: None),
}

_OWN = frozenset(vars(nn.Module()))


def numbers_of(path: str, module: nn.Module) -> dict[Attribute, Number]:
    """Return the numbers that a module itself holds, also those in its lists, tuples and dicts."""
    found: dict[Attribute, Number] = {}

    def visit(value: Any, keys: tuple[str | int, ...]) -> None:
        if type(value) in (int, float):
            found[Attribute(path, keys)] = value
        elif type(value) in (list, tuple):
            for index, each in enumerate(value):
                visit(each, (*keys, index))
        elif type(value) is dict:
            for key, each in value.items():
                if type(key) in (str, int):
                    visit(each, (*keys, key))

    for name, value in vars(module).items():
        if name not in _OWN:
            visit(value, (name,))
    return found


def assign(model: nn.Module, values: Mapping[Attribute, Any]) -> None:
    """Set attributes of a model; lists, tuples and dicts are replaced, not changed."""
    for attribute, value in values.items():
        owner = model.get_submodule(attribute.module)
        first, *keys = attribute.keys
        vars(owner)[str(first)] = _with(vars(owner)[str(first)], keys, value)


def _with(container: Any, keys: list[str | int], value: Any) -> Any:
    if not keys:
        return value
    first, *rest = keys
    if isinstance(container, dict):
        return {**container, first: _with(container[first], rest, value)}
    items = list(container)
    items[int(first)] = _with(items[int(first)], rest, value)
    return type(container)(items)
