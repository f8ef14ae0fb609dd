"""Ask any object: one that raises an error for a question has no answer."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import operator
import types
from collections.abc import Sequence
from typing import Any

CACHE: Any = type(functools.lru_cache(len))  # the class of functions that keep their results


def is_a(value: Any, kinds: Any) -> bool:
    """Tell whether a value is of a class by its type, whatever it says of its ``__class__``."""
    return issubclass(type(value), kinds)


def attribute_or(value: Any, name: str, otherwise: Any = None) -> Any:
    """Return an attribute of a value; ``otherwise`` if there is none or to read it fails."""
    try:
        return getattr(value, name)
    except Exception:  # a value may raise any
        return otherwise


def are_same(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Tell whether two lists hold the same objects."""
    return len(values) == len(others) and all(map(operator.is_, values, others))


def is_default(value: Any, default: Any) -> bool:
    """Tell whether a setting is a default: 1 is neither 1.0 nor True."""
    return type(value) is type(default) and bool(value == default)


def table_of(value: Any) -> dict[str, Any]:
    """Return the table of a value's attributes; an empty one if it shows none."""
    found = attribute_or(value, "__dict__")
    return found if is_a(found, dict) else {}


def package_of(kind: Any) -> str | None:
    """Return the package of a class or function; "" if it does not tell, None if it has none."""
    found = attribute_or(kind, "__module__", "")
    return found.partition(".")[0] if type(found) is str else None if found is None else ""


def state_of(value: Any) -> Any:
    """Return what an object of Python holds in attributes and slots, or all that it refers to."""
    told = next((vars(kind)["__dict__"] for kind in type(value).__mro__ if "__dict__" in vars(kind)), None)
    if told is None or type(told) is types.GetSetDescriptorType:  # else the class says what it likes
        with contextlib.suppress(Exception):
            return object.__getstate__(value)  # type: ignore[attr-defined]
    return gc.get_referents(value)


def held_by(value: Any) -> list[Any]:
    """Return what a value refers to, a bounded ``lru_cache`` in the order of its table.

    Python has them in order of use, each from its key on; a hit changes that order alone.
    """
    held = gc.get_referents(value)
    if not is_a(value, CACHE):
        return held
    kind, *held = held
    end = next((place for place, each in enumerate(held) if _is_table(each)), 0)
    if not end:
        return [kind, *held]
    order = {id(key): place for place, key in enumerate(held[end])}
    step = max(1, end // len(order))
    entries = [held[start : start + step] for start in range(0, end, step)]
    entries.sort(key=lambda entry: order.get(id(entry[0]), 0))
    return [kind, *itertools.chain(*entries), *held[end:]]


def _is_table(value: Any) -> bool:
    return type(value) is dict and {type(link).__name__ for link in value.values()} == {"_lru_list_elem"}


def text_of(value: Any) -> str:
    """Return the text of a value; "" if it raises an error."""
    try:
        return repr(value)
    except Exception:
        return ""
