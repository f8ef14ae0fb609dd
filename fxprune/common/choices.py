"""Choose among a few names, or name the closest one to a name that is none of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fxprune.errors import OptionError


def check_choice(option: str, value: object, choices: Collection[str]) -> None:
    """Raise OptionError if the value of an option is none of its choices."""
    if value not in [*choices]:
        near = closest(str(value), choices)
        raise OptionError(f"`{option}` must be one of {', '.join(choices)}, not {value}.{near}")


def closest(name: str, names: Iterable[str]) -> str:
    """Return `` Did you mean ...?`` with the closest name, or an empty text."""
    near = closest_names(name, names, most=1, cutoff=0.6)
    return f" Did you mean {near}?" if near else ""


def closest_names(name: str, names: Iterable[str], most: int = 3, cutoff: float = 0.0) -> str:
    """List the closest names, as in Markdown, that are alike at least by ``cutoff`` (0 to 1)."""
    import difflib  # not for --help: it is slow

    return ", ".join(f"`{each}`" for each in difflib.get_close_matches(name, list(names), n=most, cutoff=cutoff))
