"""The fields of a dataclass are the options of a command line and the keys of a recipe, with no list of them kept."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fxprune.errors import OptionError

from .kinds import Kind, kinds_of

# Other names for a field, on the command line and in recipes.
ALIASES: Mapping[str, str] = {"plan": "plan_file"}


@dataclass(frozen=True)
class Option:
    """A field of a dataclass of options.

    Attributes:
        name: of the field.
        kinds: what it may be, beside None.
        optional: whether it may be None, which is ``none`` on a command line and ``null`` in a recipe.
        required: whether it must be given.
        default: where it need not.
        about: what the docstring of the class says about it.
    """

    name: str
    kinds: tuple[Kind, ...]
    optional: bool
    required: bool
    default: Any
    about: str

    @property
    def key(self) -> str:
        """Name in recipes and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What it may be, in words."""
        return ", or ".join([*map(str, self.kinds), *(["none"] if self.optional else [])])

    def read(self, value: Any) -> Any:
        """The value that a recipe means; OptionError: it is of another kind."""
        if value is None and self.optional:
            return None
        return self._first(value, [kind.read for kind in self.kinds], repr(value))

    def parse(self, words: Sequence[str]) -> Any:
        """The value that words of a command line mean; OptionError: they are of another kind."""
        if self.optional and list(words) == ["none"]:
            return None
        return self._first(words, [kind.parse for kind in self.kinds], f"`{' '.join(words)}`")

    def _first(self, value: Any, readers: Iterable[Any], shown: str) -> Any:
        for read in readers:
            try:
                return read(value)
            except (ValueError, OverflowError):
                continue
        raise OptionError(f"`{self.key}` must be {self.expected}, not {shown}.")


def options_of(kind: type) -> dict[str, Option]:
    """The options that the fields of a dataclass are, in their order.

    Args:
        kind: a dataclass with its fields under ``Attributes:`` in its docstring or in that of its base. A constant of
            its module that is named there in double backticks is replaced by its value.

    Raises:
        TypeError: a field that no text can stand for.
    """
    abouts = _abouts(kind)
    options = {}
    for field in fields(kind):
        annotation = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
        kinds, optional = kinds_of(annotation)
        if not kinds:
            raise TypeError(f"{kind.__name__}.{field.name}: {annotation} cannot be an option; see option_kind.py.")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        required = default is MISSING
        options[field.name] = Option(
            field.name, kinds, optional, required, None if required else default, abouts.get(field.name, "")
        )
    return options


def field_name(key: str) -> str:
    """The name of a field from a key in any spelling: ``csgd-epochs``, ``csgd_epochs``, ``plan``."""
    name = key.removeprefix("--").replace("-", "_")
    return ALIASES.get(name, name)


def closest(name: str, names: Iterable[str]) -> str:
    """`` Did you mean ...?``, or nothing where nothing is like it."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def _abouts(kind: type) -> dict[str, str]:
    """{field: text} from the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        section = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for entry in re.finditer(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            found[entry[1]] = _plain(" ".join(entry[2].split()), vars(sys.modules[each.__module__]))
    return found


def _plain(text: str, constants: Mapping[str, Any]) -> str:
    """Text without markup, constants in place of their names."""

    def value(match: re.Match[str]) -> str:
        constant = constants.get(match[1]) if match[1].isupper() else None
        if isinstance(constant, tuple):
            return ", ".join(map(str, constant))
        return match[1] if constant is None else str(constant)

    return re.sub(r"(?::\w+:)?`+~?([^`]+)`+", value, text)
