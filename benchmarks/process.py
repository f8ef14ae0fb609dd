"""Run each task in one process, with limits on memory and time, and keep what it recorded."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

Facts = dict[str, Any]
T = TypeVar("T")

# Imported once, in the process that all others are forked from: 10 s for each of them saved, and all of them run the
# sources as they were at the start.
PRELOAD = ("onnxscript", "onnxruntime", "fxprune.passes.onnx.export", "benchmarks.checks.examination")

# A process that has closed its end has sent everything; threads of a library may keep it from ending.
SECONDS_TO_LEAVE = 10.0


@dataclass(frozen=True)
class Limits:
    """The limits of one process."""

    seconds: float
    memory: int


@dataclass(eq=False)
class _Running(Generic[T]):
    """A running process, and the facts that it recorded."""

    task: T
    process: multiprocessing.process.BaseProcess
    connection: Connection
    start: float
    facts: Facts

    def listen(self) -> bool:
        """Receive recorded facts; return False if the process is done."""
        try:
            while self.connection.poll():
                self.facts |= self.connection.recv()
        except (EOFError, ConnectionResetError):
            return False
        return True

    def end(self, limits: Limits) -> Facts:
        """Stop the process and return its facts, with how it ended."""
        overdue = time.monotonic() - self.start >= limits.seconds
        if not overdue:
            self.process.join(SECONDS_TO_LEAVE)
        code = self.process.exitcode or 0
        self.process.kill()
        self.process.join()
        if overdue:
            self.facts.setdefault("error", f"took longer than the limit of {limits.seconds:g} s")
        elif code:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            self.facts.setdefault("error", f"the process {how}")
        return {**self.facts, "seconds": time.monotonic() - self.start}


def run_each(
    work: Callable[[T, Callable[..., None]], None],
    tasks: Iterable[tuple[T, Path]],
    limits: Limits,
    *,
    jobs: int = 1,
    preload: Sequence[str] = PRELOAD,
) -> Iterator[tuple[T, Facts]]:
    """Yield each task with the facts that its process recorded, in the order in which they end.

    Args:
        work: ``work(task, record)``, a function of a module; ``record(name=value, ...)`` adds to the facts, and an
            exception adds ``error`` and ``source``, the line of the network's own code.
        tasks: task, and the file that takes what its process prints.
        limits: for each of them.
        jobs: how many at a time.
        preload: modules that hold what ``work`` needs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    waiting, running = iter(tasks), dict[Any, _Running[T]]()
    try:
        while True:
            while len(running) < jobs and (next_one := next(waiting, None)) is not None:
                one = _start(context, work, *next_one, limits)
                running[one.connection] = one
            if not running:
                return
            deadline = min(one.start for one in running.values()) + limits.seconds
            multiprocessing.connection.wait(list(running), max(0.0, deadline - time.monotonic()))
            for one in list(running.values()):
                if one.listen() and time.monotonic() - one.start < limits.seconds:
                    continue
                del running[one.connection]
                yield one.task, one.end(limits)
    finally:
        for one in running.values():
            one.process.kill()


def _start(context: Any, work: Any, task: T, log: Path, limits: Limits) -> _Running[T]:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(there, work, task, log, limits.memory), daemon=True)
    process.start()
    there.close()
    return _Running(task, process, here, time.monotonic(), {})


def _serve(connection: Connection, work: Any, task: Any, log: Path, memory: int) -> None:
    """Do the work in the process, and turn an exception into facts."""
    _print_into(log)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    try:
        work(task, lambda **facts: connection.send(facts))
    except Exception as error:
        from fxprune.pytorch.source import source_of_error

        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or "allocate memory" in text:
            text += f" (the limit is {memory / 2**30:g} GiB)"
        with contextlib.suppress(BrokenPipeError):
            connection.send({"error": text, "source": source_of_error(error)})
    finally:
        connection.close()


def _print_into(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
