"""A recipe is a YAML file whose keys are flags: what it says and what the flags say is the same thing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fxprune import __version__
from fxprune.common.documents import check_value, read_bounded
from fxprune.common.files import write_text
from fxprune.errors import OptionError

from .fields import closest, field_name, options_of
from .job import Job
from .requirements import REQUIRES, asks, excludes

# What a recipe may say besides: a sentence about it, and the figures that were published for it. No options.
NOTES = ("description", "published")


def read_recipe(recipe: str | os.PathLike[str], kind: type = Job) -> dict[str, Any]:
    """The options of a recipe by the names of their fields, each of the type that its field has; ``Job(**options)``.

    Args:
        recipe: a file, or the name of one of ``fxprune.models_zoo``, such as ``resnet56_cifar10``.
        kind: the dataclass of the options.

    Raises:
        OptionError: there is no such recipe, it is no YAML mapping, or a key is unknown, given twice, or has a value of
            another type. Names the line, and the closest key. Ranges are checked by the dataclass.
    """
    path = find_recipe(recipe)
    known, options, lines = options_of(kind), dict[str, Any](), dict[str, int]()
    for key, line, value in _entries(path):
        name = field_name(key)
        if key in NOTES:
            continue
        if name not in known:
            hint = closest(name.replace("_", "-"), [*(option.key for option in known.values()), *NOTES])
            raise OptionError(f"{path}, line {line}: there is no option `{key}`.{hint}")
        if name in options:
            raise OptionError(f"{path}, line {line}: `{key}` was given on line {lines[name]} already.")
        try:
            options[name], lines[name] = known[name].read(value), line
        except OptionError as error:
            raise OptionError(f"{path}, line {line}: {error}") from error
    return options


def read_notes(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """What a recipe says besides its options: ``description`` and ``published``, the figures of a paper.

    Raises:
        OptionError: there is no such recipe, or it is no YAML mapping.
    """
    return {key: value for key, _, value in _entries(find_recipe(recipe)) if key in NOTES}


def override(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the recipe, or what was given instead; an option that was given replaces its rivals, too.

    What did something in the recipe and does nothing any more, since a flag turned off what it needs, is left out.

    Args:
        recipe: options of a job by name.
        given: options by name, which come first; one that is given at its default has no rivals.
    """
    asked = {name for name, value in given.items() if asks(Job, name, value)}
    stages = {**recipe, **given}.get("stages")
    replaced = {name for names in map(set, excludes(stages)) if names & asked for name in names}
    options = {name: value for name, value in recipe.items() if name not in replaced} | dict(given)
    before, after = _whole(recipe), _whole(options)
    idle = {need.name for need in REQUIRES if need.met(before) and not need.met(after)} - given.keys()
    return {name: value for name, value in options.items() if name not in idle}


def write_recipe(job: object, path: str | os.PathLike[str]) -> None:
    """Write every option of a job, so that ``read_recipe`` gives an equal one.

    A network or data that was given as such is left out: a comment says so, and flags must name it.

    Args:
        job: a dataclass of options.
        path: the file, written whole or not at all.
    """
    from .recipe_yaml import dump

    lines, values = (
        [f"# Written by fxprune {__version__}: fxprune compress --recipe {Path(path).name} --output DIR"],
        {},
    )
    for name, option in options_of(type(job)).items():
        value = getattr(job, name)
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            option.read(value)
            values[option.key] = value
        except OptionError:
            lines.append(
                f"# {option.key}: was given in Python, as {type(value).__name__}; name one with --{option.key}"
            )
    write_text(path, "\n".join(lines) + "\n" + dump(values))


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """The file of a recipe that is given by its path or its name.

    Raises:
        OptionError: there is no such file or name.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    package = importlib.util.find_spec("fxprune.models_zoo")  # to import it would take torch
    folder = Path(next(iter(package.submodule_search_locations or ()))) / "recipes" if package else Path()
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if str(recipe) in names:
        return folder / f"{recipe}.yaml"
    ours = f" Ours are {', '.join(names)}." if names else ""
    raise OptionError(f"there is no recipe `{recipe}`, neither a file nor a name.{closest(str(recipe), names)}{ours}")


def _whole(options: Mapping[str, Any]) -> SimpleNamespace:
    """Options of a job as attributes, defaults included."""
    return SimpleNamespace(**{name: option.default for name, option in options_of(Job).items()} | dict(options))


def _entries(path: Path) -> list[tuple[str, int, Any]]:
    """(key, line, value) of every entry."""
    import yaml

    from .recipe_yaml import read_mapping

    try:
        entries = read_mapping(read_bounded(path))
        check_value(entries)
        return entries
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"{path} is no text that can be read: {error}.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionError(f"{path}{line}: {', '.join(filter(None, (error.context, error.problem)))}.") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
