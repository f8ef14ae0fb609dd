"""Write what a run measures as one JSON object per line, and optionally to TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from fxprune.common.documents import parse_json, read_bounded
from fxprune.common.files import write_text
from fxprune.errors import CheckpointError, OptionError
from fxprune.passes.store import EVENTS, METRICS

Record = dict[str, Any]


class Metrics:
    """The records of ``metrics.jsonl``, ordered by step, the same with or without a resume.

    :meth:`record` flushes each record. Use this as a context manager, or ``close()`` it. With several processes, only
    the first one may have it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        tensorboard: bool = False,
        resume_at: int | None = None,
        on_write: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a new file, or continue that of an interrupted run.

        Args:
            folder: the folder of ``metrics.jsonl``.
            tensorboard: also write event files to ``tensorboard/`` in the folder.
            resume_at: finished steps over all phases, as in the checkpoint; later records are dropped. None: a new
                run, which replaces the file of an earlier one.
            on_write: called when the file exists, and after each record.

        Raises:
            OptionError: TensorBoard is not installed.
            CheckpointError: the file to continue is damaged.
            OSError: it cannot be written.
        """
        path = Path(folder) / METRICS
        self._events = _event_writer(path.parent / EVENTS, resume_at) if tensorboard else None
        before = [] if resume_at is None or not path.exists() else read_metrics(folder)
        kept = [record for record in before if record["step"] <= (resume_at or 0)]
        write_text(path, "".join(map(_line, kept)))
        self._step = kept[-1]["step"] if kept else 0
        # A checkpoint may come before or after the record of its own step; in the latter case do not write it again.
        self._already = {_key(record) for record in kept if record["step"] == resume_at}
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._on_write = on_write
        on_write()

    def record(self, *, phase: str, epoch: int, step: int, **numbers: Any) -> None:
        """Append ``{"phase": ..., "epoch": ..., "step": ..., **numbers}``.

        Args:
            phase: ``train``, ``csgd``, ...
            epoch: within the phase, from 1.
            step: finished optimizer steps over all phases; never less than in the record before.
            **numbers: Python, NumPy or torch scalars; None and values that are not finite become null.

        Raises:
            OptionError: the step is lower than that of the record before.
        """
        if step < self._step:
            raise OptionError(
                f"a record of step {step} in phase `{phase}` cannot follow one of step {self._step}: "
                f"count steps through all phases."
            )
        record: Record = {"phase": phase, "epoch": epoch, "step": step}
        record |= {name: _finite(value) for name, value in numbers.items()}
        self._step = step
        if _key(record) in self._already:
            return
        self._file.write(_line(record))
        self._file.flush()
        self._on_write()
        if self._events is not None:
            for name in numbers:
                if record[name] is not None:
                    self._events.add_scalar(f"{phase}/{name}", record[name], step)
            self._events.flush()

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(folder: str | os.PathLike[str]) -> list[Record]:
    """Read every complete record in a folder; an unfinished last line is ignored.

    Raises:
        CheckpointError: the file is missing, or a line is damaged.
    """
    path = Path(folder) / METRICS
    try:
        *lines, _ = read_bounded(path).split("\n")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}. Is {folder} a folder of results?") from error
    except ValueError as error:
        raise CheckpointError(f"{path} holds no records: {error}. Begin anew.") from error
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _parsed(line: str, line_name: str) -> Record:
    try:
        record: Record = parse_json(line)
        counts = record["epoch"], record["step"]
        if not isinstance(record["phase"], str) or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError
        if any(isinstance(value, list | dict) for value in record.values()):
            raise ValueError
        if any(isinstance(value, str) for name, value in record.items() if name.startswith("deviation")):
            raise ValueError
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{line_name}, is no record of a run but `{line[:60]}`: take it out, or begin anew."
        ) from error
    return record


def _key(record: Mapping[str, Any]) -> Hashable:
    """Return the key of a record: an epoch may have several records at one step."""
    return record["phase"], record["epoch"], record["step"], frozenset(record)


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    value = value.item() if hasattr(value, "item") else value  # a scalar of NumPy or torch
    return value if isinstance(value, int) else float(value) if math.isfinite(value) else None


def _event_writer(folder: Path, resume_at: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OptionError(
            f"TensorBoard is not installed ({error}): pip install 'fxprune[tensorboard]', or leave --tensorboard out. "
            f"{METRICS} holds the same numbers."
        ) from error
    # From this step on, TensorBoard hides what the interrupted run had written.
    return SummaryWriter(str(folder), purge_step=None if resume_at is None else resume_at + 1)  # type: ignore[no-untyped-call]
