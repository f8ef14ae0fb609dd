"""Every command replies with a text for people, and the same as a JSON value for programs."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fxprune.passes.report import Result

# As wide as lines may be where the terminal is wider, or where there is none.
MOST_COLUMNS = 100


class Reply(NamedTuple):
    """The finding of a command.

    Attributes:
        text: for people.
        value: makes the same for programs (``--json``); its keys are documented in docs/cli.md.
        code: exit code.
    """

    text: str
    value: Callable[[], Mapping[str, Any]]
    code: int = 0


def result_reply(
    result: Result, *, page: PathLike[str] | None = None, done_in: str | PathLike[str] | None = None
) -> Reply:
    """Reply with the result of a job; its JSON is that of ``summary.json``, and the folder.

    Args:
        result: of the job.
        page: the report in its folder.
        done_in: the folder of a job that was done just now, to name the next commands for.
    """
    import json

    text = result.text(columns())
    if done_in is not None:
        from pathlib import Path

        from fxprune.passes.store import PAGE

        written = Path(done_in) / PAGE
        page = written if written.is_file() else None
        seen = [] if page is None else [f"open {page} in a browser"]
        text += next_steps({**verify_step(done_in), **export_step(done_in)}, seen)
    return Reply(text, lambda: {"output": result.output, **json.loads(result.to_json()), "page": page})


def next_steps(commands: Mapping[str, str], before: Sequence[str] = ()) -> str:
    """Name the next commands to try, as the end of a text.

    Args:
        commands: of ours, as they are typed -> what for.
        before: what to do before.
    """
    longest = max(map(len, commands))
    lines = [f"fxprune {command:<{longest}}    # {about}" for command, about in commands.items()]
    return "\n\nNext: " + "\n      ".join([*before, *lines])


def verify_step(folder: str | PathLike[str]) -> dict[str, str]:
    """Return the next command that checks a folder."""
    return {f"verify {quoted(folder)}": "all checks again, from the files alone"}


def export_step(folder: str | PathLike[str]) -> dict[str, str]:
    """Return the next command that exports the network of a folder."""
    return {f"export {quoted(folder)} --format python": "or onnx, pt2, openvino, timm"}


def quoted(path: str | PathLike[str]) -> str:
    """Write a path as it is typed."""
    return shlex.quote(fspath(path))


def as_json(command: str | None, value: Mapping[str, Any], code: int) -> str:
    """Format a reply or an error as one JSON document; a number that is not finite is null."""
    import json  # not for --help: it is slow

    return json.dumps(_plain({"command": command, "exit_code": code, **value}), indent=1, allow_nan=False)


def columns() -> int:
    """Return how many columns a table may have: those of the terminal, from 80 to 100."""
    return max(80, min(MOST_COLUMNS, terminal_columns(MOST_COLUMNS)))


def terminal_columns(otherwise: int) -> int:
    """Return the columns of the terminal; another number where none are known."""
    with contextlib.suppress(KeyError, ValueError):
        return int(os.environ["COLUMNS"]) or otherwise
    with contextlib.suppress(OSError):  # stdout is no terminal
        return os.get_terminal_size().columns or otherwise
    return otherwise


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, PathLike):
        return fspath(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
