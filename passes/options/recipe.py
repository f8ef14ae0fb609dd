"""Read and write recipes: YAML files whose keys are flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fxprune import __version__
from fxprune.common.addresses import runs_code
from fxprune.common.choices import closest
from fxprune.errors import OptionError

from .fields import REMOVED, field_name
from .job import Job
from .record import options_of
from .requirements import EXCLUDES_OF_FOLD, REQUIRES, TIMED, asks, excludes

if TYPE_CHECKING:
    from pathlib import Path

# Further keys of a recipe, which are not options: a sentence about it, and the published figures.
NOTES = ("description", "published")
# Bytes of a recipe: to read them as YAML takes a minute.
LARGEST = 1 << 20


def read_recipe(recipe: str | os.PathLike[str], kind: type = Job, *, model: object = None) -> dict[str, Any]:
    """Read the options of a recipe by field name, in the types of the fields, for ``Job``.

    Args:
        recipe: a file, or the name of a recipe in ``fxprune.models_zoo``, such as ``resnet56_cifar10``.
        kind: the dataclass of the options, which checks their ranges.
        model: the network that the user gives beside the recipe; None: the recipe's. A network that runs code is only
            ever the user's own: one that the recipe names is left out if another is given.

    Raises:
        OptionError: the recipe does not exist or is not a YAML mapping, or a key is unknown, given twice, or has a
            value of another type; or it alone names a network that runs code. The message names the line, and the
            closest key.
    """
    path = find_recipe(recipe)
    known, options, lines = options_of(kind), dict[str, Any](), dict[str, int]()
    for key, line, value in _read_entries(path):
        name = field_name(key)
        if key in NOTES or (name in REMOVED and value == REMOVED[name][0]):
            continue
        if name in REMOVED:
            raise OptionError(f"{path}, line {line}: the option `{key}` is gone: {REMOVED[name][1]}.")
        if name not in known:
            hint = closest(name.replace("_", "-"), [*(option.key for option in known.values()), *NOTES])
            raise OptionError(f"{path}, line {line}: there is no option `{key}`.{hint}")
        if name in options:
            raise OptionError(f"{path}, line {line}: `{key}` was given on line {lines[name]} already.")
        try:
            options[name], lines[name] = known[name].read(value), line
        except OptionError as error:
            raise OptionError(f"{path}, line {line}: {error}") from error
    named = options.get("model")
    if runs_code(named) and named != model:
        if model is None:
            raise OptionError(
                f"{path}, line {lines['model']}: the network `{named}` runs code of whoever wrote it, which no recipe "
                f"may ask for: if you trust it, repeat it as {_flag_of_model(kind)} {named}."
            )
        del options["model"]
    return options


def read_notes(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the notes of a recipe: ``description``, and ``published``, the figures of a paper.

    Raises:
        OptionError: the recipe does not exist, or is not a YAML mapping.
    """
    return {key: value for key, _, value in _read_entries(find_recipe(recipe)) if key in NOTES}


def override(recipe: Mapping[str, Any], given: Mapping[str, Any], kind: type = Job) -> dict[str, Any]:
    """Override options of a recipe; a given option also replaces those that it excludes.

    An option of the recipe is left out if a given one turned off what it requires.

    Args:
        recipe: options of a job by name.
        given: options by name, which win; one at its default value excludes no others.
        kind: of the job, ``Job`` or ``FoldJob``.
    """
    asked = {name for name, value in given.items() if asks(kind, name, value)}
    groups = excludes({**recipe, **given}.get("stages")) if kind is Job else EXCLUDES_OF_FOLD
    replaced = {name for names in map(set, groups) if names & asked for name in names}
    options = {name: value for name, value in recipe.items() if name not in replaced} | dict(given)
    before, after = (_complete(each, kind) for each in (recipe, options))
    needs = REQUIRES if kind is Job else TIMED
    idle = {need.name for need in needs if need.met(before) and not need.met(after)} - given.keys()
    return {name: value for name, value in options.items() if name not in idle}


def write_recipe(job: object, path: str | os.PathLike[str]) -> None:
    """Write every option of a job, so that ``read_recipe`` gives an equal job.

    What was given in Python is left out: a comment says so. Flags must name a network and data; a loss or a metric has
    none. A network that runs code must be repeated as a flag.
    """
    from fxprune.common.files import write_text

    from .recipe_yaml import dump

    command = _command_of(type(job))
    lines = [f"# Written by fxprune {__version__}: fxprune {command} --recipe {os.path.basename(path)} --output DIR"]
    options, objects = options_of(type(job)), given_in_python(job)
    for name, value in objects.items():
        remedy = f"name one with --{options[name].key}" if name in options else "only Python can give it again"
        lines.append(f"# {name.replace('_', '-')}: was given in Python, as {type(value).__name__}; {remedy}")
    values = {option.key: _as_text(getattr(job, name)) for name, option in options.items() if name not in objects}
    if runs_code(values.get("model")):
        lines.append(f"# model: runs code of whoever wrote it; repeat it with {_flag_of_model(type(job))}")
    write_text(path, "\n".join(lines) + "\n" + dump(values))


def given_in_python(job: Any) -> dict[str, Any]:
    """Return the networks, data and functions of a job that no flag or recipe can give."""
    options, found = options_of(type(job)), {}
    for name, value in ((name, _as_text(each)) for name, each in vars(job).items()):
        try:
            if name in options:
                options[name].read(value)
            elif value is not None:
                found[name] = value
        except OptionError:
            found[name] = value
    return found


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """Find the file of a recipe by its path or its name.

    Raises:
        OptionError: the file or name does not exist.
    """
    from pathlib import Path  # not for --help: it is slow

    path = Path(recipe)
    if path.is_file():
        return path
    names = recipes()
    if str(recipe) in names:
        return names[str(recipe)]
    ours = f" Ours are {', '.join(names)}." if names else ""
    raise OptionError(f"there is no recipe `{recipe}`, neither a file nor a name.{closest(str(recipe), names)}{ours}")


def recipes() -> dict[str, Path]:
    """Find our recipes by name."""
    import importlib.util
    from pathlib import Path

    package = importlib.util.find_spec("fxprune.models_zoo")  # an import would import torch
    folder = Path(next(iter(package.submodule_search_locations or ()))) / "recipes" if package else Path()
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _command_of(kind: type) -> str:
    return str(getattr(kind, "command", "compress"))


def _flag_of_model(kind: type) -> str:
    return "--model" if _command_of(kind) == "compress" else "MODEL"


def _complete(options: Mapping[str, Any], kind: type) -> SimpleNamespace:
    """Return the options of a job as attributes, defaults included."""
    return SimpleNamespace(**{name: option.default for name, option in options_of(kind).items()} | dict(options))


def _read_entries(path: Path) -> list[tuple[str, int, Any]]:
    """Read the (key, line, value) of every entry."""
    import yaml

    from fxprune.common.documents import check_value, read_bounded

    from .recipe_yaml import read_mapping

    try:
        entries = read_mapping(read_bounded(path, LARGEST))
        check_value(entries)
        return entries
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise OptionError(f"{path} is no text that can be read: {error}.") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        advice = " Indent with spaces." if "'\\t'" in str(error.problem) else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise OptionError(f"{path}{line}: {problem}.{advice}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
