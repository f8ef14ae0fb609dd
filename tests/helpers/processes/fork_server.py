"""Processes forked from one that has loaded what they need: some seconds less for each."""

from __future__ import annotations

import multiprocessing
import traceback
from pathlib import Path

from benchmarks.process import PRELOAD, run_each

_CONTEXT = multiprocessing.get_context("forkserver")
_LOADED = (*PRELOAD, "helpers.processes.loaded")


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
