"""An option is a flag of the command line, a key of a recipe, and an argument in Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fxprune.common.choices import closest
from fxprune.common.text import shortened
from fxprune.errors import OptionError

from .kinds import SCALARS, Word, expected, plain, read
from .ranges import Range

# The default of an option that must be given.
MISSING: Any = object()
# No count or seed reaches it, and the libraries below take none above.
LIMIT = 2**32
# Other names for a field, on the command line and in recipes.
ALIASES: Mapping[str, str] = {"plan": "plan_file"}
# Field of earlier versions -> the value that changes nothing, which their recipes hold; why the field is gone.
REMOVED: Mapping[str, tuple[Any, str]] = {
    "allocate": ("uniform", "every group keeps the same share of its channels: `auto` was no better at equal MACs")
}


class Option(NamedTuple):
    """A field of a record of options.

    Attributes:
        name: of the field.
        kinds: types that it may have, besides None; text last, since every word is text.
        optional: whether it may be None, which is ``none`` on a command line and ``null`` in a recipe.
        default: ``MISSING`` if it must be given.
        range: its range, if it has one.
        about: a sentence about it.
        heading: of the record that declares it.
        others: whether Python may give what no text can express, as a network.
    """

    name: str
    kinds: tuple[Any, ...]
    optional: bool
    default: Any
    range: Range | None
    about: str
    heading: str
    others: bool

    @property
    def key(self) -> str:
        """The name in recipes and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    @property
    def many(self) -> bool:
        """Tell whether it may take several words of a command line."""
        return any(kind not in SCALARS for kind in self.kinds)

    def parse(self, words: Sequence[str]) -> Any:
        """Parse words of a command line; raise OptionError for another type."""
        return self.read([*map(Word, words)] if len(words) > 1 else Word(words[0]), f"`{' '.join(words)}`")

    def read(self, value: Any, shown: str = "") -> Any:
        """Read a value of a recipe; raise OptionError for another type."""
        absent = isinstance(value, Word) and value == "none" and not (self.range and "none" in self.range.choices)
        if self.optional and (value is None or absent):
            return None
        for kind in self.kinds:
            with contextlib.suppress(LookupError, ValueError, OverflowError):
                return read(kind, value)
        raise self.wrong(self.key, shown or repr(value))

    def plain(self, value: Any) -> Any:
        """Return a value given in Python, numbers in Python's types; raise OptionError for others."""
        if value is None and self.optional:
            return None
        for kind in self.kinds:
            with contextlib.suppress(ValueError):
                return plain(kind, value)
        if self.others:
            return value
        raise self.wrong(self.name, repr(value))

    def check(self, value: Any) -> None:
        """Raise OptionError for a value out of its range."""
        try:
            good = value is None or self.range is None or self.range.holds(value)
        except (TypeError, ValueError, RuntimeError):  # the last two by arrays and tensors
            good = False
        if not good and self.range:
            shown = value if str(value).strip() else repr(value)
            hint = closest(str(value), self.range.choices)
            raise OptionError(f"`{self.name}` must be {self.range.words}, not {shown}.{hint}")
        self._check_recordable(value)

    def _check_recordable(self, value: Any) -> None:
        """Raise OptionError for an integer or a text that neither the libraries nor our files hold."""
        from fxprune.common.documents import check_value  # not for --help

        inside = _inside(value)
        try:
            check_value([os.fspath(each) for each in inside if isinstance(each, str | os.PathLike)])
        except ValueError as error:
            raise OptionError(f"`{self.name}` cannot be recorded: {error}. Use another name.") from error
        if any(abs(each) >= LIMIT for each in inside if type(each) is int):
            raise OptionError(f"`{self.name}` must be below 2^32, not {shortened(str(value), 40)}.")

    def wrong(self, name: str, shown: str) -> OptionError:
        """Return the error for a value of another type."""
        words = ", or ".join([*map(expected, self.kinds), *(["none"] if self.optional else [])])
        advice = self._as_share(shown.strip("`'"))
        return OptionError(f"`{name}` must be {words}, not {shown}.{advice}")

    def _as_share(self, shown: str) -> str:
        """Say how a percentage is written where a number is expected."""
        if float in self.kinds and shown.endswith("%"):
            with contextlib.suppress(ValueError):
                return f" Write {float(shown[:-1]) / 100:g}."
        return ""


def _inside(value: Any) -> list[Any]:
    """List what the value of an option holds."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return [*value] if isinstance(value, list | tuple) else [value]


def field_name(key: str) -> str:
    """Return the field of a key in any spelling: ``csgd-epochs``, ``csgd_epochs``, ``plan``."""
    name = key.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)
