"""Compare what a job reads with what its folder holds: nothing is done twice or lost."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from fxprune.common.addresses import HUB, LOCAL, PROGRAM, is_import_path
from fxprune.errors import CheckpointError, FxpruneError, OptionError
from fxprune.models_zoo.data import names_and_sizes
from fxprune.passes.options import FoldJob, Job, read_recipe
from fxprune.passes.report import Result, read_result
from fxprune.passes.store import (
    CHECKPOINTS,
    ESSENTIAL,
    MANIFEST,
    RECIPE,
    RESULTS,
    WIDE,
    OwnFiles,
    fingerprint,
    is_saved,
    read_manifest,
)

# The options that may differ between a run and the one that resumes it: weights do not depend on them.
# `workers` is not among them, since each process that decodes images draws random numbers of its own.
MAY_DIFFER = frozenset(
    "output progress resume checkpoint_every device data_root opset tensorboard".split()  # noqa: SIM905
)
# What may be in a folder of timm's that decides what its network computes.
_OF_TIMM = (".json", ".safetensors", ".bin", ".pth")
# Options that name what the results may replace by something else.
_REPLACED = ("model", "checkpoint", "teacher")
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


def files_read(job: Job | FoldJob) -> dict[str, str]:
    """Map each option that names a file to its SHA-256; a data folder, to that of its listing.

    Raises:
        CheckpointError: the file is missing or not readable.
    """
    found = {name: _sha256(file) for name, file in _named_files(job).items()}
    lists = {"data": names_and_sizes(Path(job.data))} if isinstance(job.data, str) and os.path.isdir(job.data) else {}
    if isinstance(job.model, str) and job.model.startswith(LOCAL):
        inside = sorted(path for path in Path(job.model.removeprefix(LOCAL)).glob("*") if path.suffix in _OF_TIMM)
        lists["model"] = [f"{path.name} {_sha256(path)}" for path in inside]
    return found | {name: hashlib.sha256(os.fsencode("\n".join(each))).hexdigest() for name, each in lists.items()}


def check_input_stays(job: Job | FoldJob) -> None:
    """Raise OptionError if the results would replace the network that the job reads.

    The wide network stays what it is where it is not trained.
    """
    output = Path(job.output)
    trains = isinstance(job, Job) and job.epochs
    names = {MANIFEST, *RESULTS} - (set() if trains else {WIDE})
    for option, path in _named_files(job).items():
        file = Path(path)
        if option in _REPLACED and file.name in names and output.is_dir() and output.samefile(file.parent):
            raise OptionError(
                f"`{option}` is read from {os.fspath(job.output)}, where the results would replace it: give another "
                "folder as `output`."
            )


def _named_files(job: Job | FoldJob) -> dict[str, str | os.PathLike[str]]:
    files = {"plan_file": job.plan_file, "checkpoint": job.checkpoint, "latency_table": job.latency_table}
    if isinstance(job, Job) and job.teacher != "wide":
        files["teacher"] = job.teacher
    if isinstance(job.model, str) and is_saved(job.model):
        files["model"] = os.path.join(job.model, MANIFEST)  # which has the hash of every other file
    elif isinstance(job.model, str) and job.model.endswith(PROGRAM):
        files["model"] = job.model
    return {name: file for name, file in files.items() if file is not None}


def _sha256(file: str | os.PathLike[str]) -> str:
    try:
        return fingerprint(file).sha256
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {os.fspath(file)}.") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {os.fspath(file)}: {error.strerror}.") from error
