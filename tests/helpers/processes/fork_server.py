"""Processes forked from one that has loaded what they need: some seconds less for each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import traceback
from pathlib import Path

from benchmarks.process import PRELOAD, run_each

_CONTEXT = multiprocessing.get_context("forkserver")
_LOADED = (*PRELOAD, "helpers.processes.libraries")


def preload():
    """Let the processes of benchmarks come from the same server."""
    run_each.__kwdefaults__["preload"] = _LOADED


def start(work, log: Path, *args):
    """Start a process that calls a function of a module; an exception is told in `log`."""
    _CONTEXT.set_forkserver_preload(list(_LOADED))
    process = _CONTEXT.Process(target=_run, args=(work, log, args))
    process.start()
    return process


def _run(work, log, args):
    try:
        work(*args)
    except BaseException:
        log.write_text(traceback.format_exc())
        raise


@contextlib.contextmanager
def command(words: str, place: Path, pipe: Path):
    """Run `fxprune WORDS` in a folder; yield its process and its stderr, which comes by a pipe of this name."""
    os.mkfifo(pipe)
    process = start(_command, pipe.with_suffix(".log"), words, place, pipe)
    with open(pipe, encoding="utf-8") as errors:
        yield process, errors
    process.kill()
    process.join()


def _command(words, place, pipe):
    from fxprune.cli import main

    os.dup2(os.open(pipe, os.O_WRONLY), 2)
    os.chdir(place)
    sys.exit(main(words.split()))
