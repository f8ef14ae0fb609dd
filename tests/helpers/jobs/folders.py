"""Files of a folder, written and listed."""

from __future__ import annotations

import time

import pytest

from fxprune.passes.store import folder_aside
from fxprune.passes.store.layout import RESULTS, ROWS


def written(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def write(place, files):
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def run_with(out, names, work):
    """Let `work` write into the folder aside of a run whose results have these names."""
    with folder_aside(out, files=names) as aside:
        work(aside)


def run(out, files, names=RESULTS):
    """Write files as a run does whose results have these names."""
    run_with(out, names, lambda aside: write(aside, files))


def refused(out):
    """Begin a run that ends before it writes anything."""
    with folder_aside(out, files=RESULTS):
        pytest.fail("worked")


def hold(out, told):
    """Write into a folder of results for ever; make the file `told` once that has begun."""
    with folder_aside(out, files=[ROWS]) as aside:
        (aside / ROWS).write_text("half")
        told.touch()
        time.sleep(600)
