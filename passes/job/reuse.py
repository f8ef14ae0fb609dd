"""Detect that the output folder already holds this job's finished results."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fxprune.common.addresses import HUB, is_import_path
from fxprune.errors import FxpruneError
from fxprune.passes.options import Job, read_recipe
from fxprune.passes.report import Result, read_result
from fxprune.passes.store import CHECKPOINTS, ESSENTIAL, RECIPE, OwnFiles, read_manifest

from .resume import MAY_DIFFER, files_read

# Options that no recipe holds; the results tell whether they were given.
_JUDGES = {"loss", "metric"}


def finished(job: Job) -> Result | None:
    """Return the results of the same job if it may resume and is finished; else None.

    A network, data, a loss or a metric given in Python has no file to compare: such a job is repeated.
    """
    output = Path(job.output)
    in_python = not isinstance(job.model, str) or not isinstance(job.data, str) or _JUDGES & job.options().keys()
    if job.resume is None or in_python:
        return None
    try:
        if OwnFiles(output / CHECKPOINTS).present(".pt"):
            return None
        manifest = read_manifest(output)
        manifest.check(output, ESSENTIAL)
        recipe = read_recipe(output / RECIPE, model=job.model)
        before, result = Job(**{**recipe, "output": job.output}), read_result(output)
        changed = manifest.reads != files_read(job) or _JUDGES & result.options.keys()
    except (FxpruneError, OSError, TypeError):
        return None
    if changed or _decisive(before) != _decisive(job):
        return None
    if job.progress is not False:
        more = "".join(f"; what `{name}` gives now was not looked at" for name in unseen(job))
        print(f"{output} holds the results of this job: nothing is done again{more}", file=sys.stderr, flush=True)
    return result


def unseen(job: Job) -> list[str]:
    """List the network and data that have no file to compare, by their addresses."""
    model, data = str(job.model), str(job.data)
    models = [model] if is_import_path(model) or model.startswith(HUB[:2]) else []
    return models + ([data] if "/" in data and not os.path.isdir(data) else [])


def _decisive(job: Job) -> dict[str, object]:
    return {name: value for name, value in job.options().items() if name not in MAY_DIFFER - {"opset", "tensorboard"}}
