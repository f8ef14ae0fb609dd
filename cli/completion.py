"""Complete commands, flags, values, names and files in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

SHELLS = ("bash", "zsh", "tcsh", "fish")
# Shell -> a function that completes one of some names, or a file.
OR_FILES = {
    "bash": '_fxprune_{0}() {{ compgen -W "{1}" -- "$1"; _shtab_compgen_files "$1"; }}',
    "zsh": '_fxprune_{0}() {{ compadd "$@" -- {1}; _files "$@"; }}',
    "fish": "function _fxprune_{0}; string split ' ' '{1}'; __fish_complete_path (commandline -ct); end",
}
CALLED = {"bash": "_fxprune_{0}", "zsh": "_fxprune_{0}", "fish": "(_fxprune_{0})"}
FILES = ("FILE", "PATH", "DIR", "FOLDER")  # what an option of this kind names


def completion(parser: argparse.ArgumentParser, commands: Mapping[str, tuple[Any, str]], shell: str) -> str:
    """Write the script of a shell.

    Args:
        parser: of all commands.
        commands: name -> its filled parser, and its line in a menu.
        shell: one of ``SHELLS``.
    """
    import shtab  # only here: every other command starts faster without it

    named = {kind: names for kind, names in _names().items() if shell in OR_FILES}
    values = _values()
    for command, line in commands.values():
        command.description = line
        for action in command._actions:
            range_ = action.option.range if hasattr(action, "option") else None
            action.choices = range_.choices if range_ and range_.choices else values.get(action.dest, action.choices)
            if action.dest in named:
                action.complete = {shell: CALLED[shell].format(action.dest)}
            elif action.metavar in FILES or action.dest in ("model", "data", "inputs"):
                action.complete = shtab.FILE
    preamble = "\n".join(OR_FILES[shell].format(kind, " ".join(names)) for kind, names in named.items())
    script: str = shtab.complete(parser, shell=shell, preamble={shell: f"{preamble}\n"} if preamble else "")
    return script


def _names() -> dict[str, Sequence[str]]:
    """List the names that stand for a file, or beside one."""
    from fxprune.models_zoo import list_models
    from fxprune.models_zoo.data import PACKAGED
    from fxprune.passes.options import recipes

    return {"model": list_models(), "data": [*PACKAGED], "recipe": [*recipes()], "teacher": ["wide"]}


def _values() -> dict[str, Sequence[str]]:
    """List the values of options that take others, too."""
    from timm.optim import list_optimizers

    return {"resume": ["auto"], "device": ["auto", "cpu", "cuda", "mps"], "optimizer": list_optimizers()}
