"""A literal of the narrow graph is an equation for the attributes that provide it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .comparison import Comparison, Literal, Multiplier
from .provenance import Attribute, Number, attributes_of, solve, value_of


@dataclass(frozen=True)
class Solution:
    """The attributes that the narrow network needs.

    Attributes:
        values: the attributes that change.
        unsolved: the literals that no choice of attributes provides.
        lengths: the literals that the model reads from the length of an axis.
        factors: of the narrow graph alone.
    """

    values: Mapping[Attribute, Number]
    unsolved: tuple[Literal, ...]
    lengths: tuple[Literal, ...]
    factors: tuple[Multiplier, ...]


def solved(comparison: Comparison) -> Solution:
    """Find the attributes that provide the literals of the narrow graph."""
    found: dict[Attribute, Number] = {}
    wide = comparison.values
    todo = [each for each in comparison.literals if not isinstance(each.term, int | float)]
    progress = True
    while progress:  # literals of one unknown settle attributes, which leaves fewer unknowns in the others
        progress = False
        for literal in todo:
            unknown = set(attributes_of(literal.term)) - found.keys()
            if len(unknown) != 1:
                continue
            (attribute,) = unknown
            value = _value(literal, attribute, {**wide, **found}, wide[attribute])
            if value is not None:
                found[attribute], progress = value, True
        progress = progress or _guess(todo, wide, found)
    # An attribute that no literal settles keeps its number.
    now = {**wide, **found}
    unsolved = [each for each in comparison.literals if not _provides(each, now)]
    changed = {attribute: value for attribute, value in found.items() if value != wide[attribute]}
    lengths = [each for each in comparison.literals if each.wide is None]
    return Solution(changed, tuple(unsolved), tuple(lengths), comparison.factors)


def _guess(literals: list[Literal], wide: Mapping[Attribute, Number], found: dict[Attribute, Number]) -> bool:
    """Settle the largest of several unknowns of a literal: widths are larger than counts.

    The check of the graft finds a wrong guess.
    """
    for literal in literals:
        now = {**wide, **found}
        if _provides(literal, now):
            continue
        unknown = set(attributes_of(literal.term)) - found.keys()
        for attribute in sorted(unknown, key=lambda each: (-wide[each], str(each))):
            value = _value(literal, attribute, now, wide[attribute])
            if value is not None:
                found[attribute] = value
                return True
    return False


def _value(literal: Literal, attribute: Attribute, values: Mapping[Attribute, Number], wide: Number) -> Number | None:
    value = solve(literal.term, literal.narrow, attribute, values)
    if isinstance(wide, int) and value is not None:
        value = round(value)
    if value is None or not _provides(literal, {**values, attribute: value}):
        return None
    return value


def _provides(literal: Literal, values: Mapping[Attribute, Number]) -> bool:
    if literal.wide in (None, -1):  # the model takes it from the length of an axis
        return True
    try:
        return math.isclose(value_of(literal.term, values), literal.narrow, rel_tol=1e-12)
    except ArithmeticError:
        return False
