"""Name the outputs of a network that count, by their places.

A place is a key, field or number; places within places are joined by dots: ``logits``, ``1``, ``hidden_states.3``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fxprune.errors import OptionError

# A part of what `pytree.keystr` writes: [0], ['logits'] or .logits
_PART = re.compile(r"\[(\d+)\]|\['([^']*)'\]|\.(\w+)")
Outputs = tuple[str, ...]


def as_outputs(outputs: object) -> Outputs | None:
    """Read what a user says of the outputs that count: a name or number, or several; None: all.

    Raises:
        OptionError: it is neither.
    """
    if outputs is None:
        return None
    several = [outputs] if isinstance(outputs, str | int) else [*outputs] if isinstance(outputs, Iterable) else []
    if not several or not all(type(each) in (str, int) for each in several):
        raise OptionError(
            f"`outputs` must be names or numbers of outputs, as `logits`, 0 or `hidden_states.3`, not {outputs!r}."
        )
    return tuple(map(str, several))


def place_of(path: str) -> str:
    """Return the place of a path: ``output['aux'][0]`` is ``aux.0``, ``output`` is empty."""
    return ".".join(next(filter(None, parts), "") for parts in _PART.findall(path))


def counts(place: str, outputs: Sequence[str] | None) -> bool:
    """Tell whether the output at a place counts: it is named, or what holds it is."""
    return outputs is None or any(place == name or place.startswith(f"{name}.") for name in outputs)


def check_known(outputs: Outputs, places: Sequence[str]) -> None:
    """Raise OptionError, listing the places that there are, if there is no output at one."""
    unknown = [name for name in outputs if not any(counts(place, (name,)) for place in places)]
    if unknown:
        there = ", ".join(f"`{place}`" for place in places if place) or "one tensor, which needs no name"
        raise OptionError(f"there is no output `{unknown[0]}`: the network returns {there}.")
