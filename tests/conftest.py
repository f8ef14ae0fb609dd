"""Two workers on two cores, each computing on one; every test begins with the same random numbers, alone or not."""

from __future__ import annotations

import functools
import gc
import logging
import signal
from pathlib import Path

import pytest
from helpers.processes.forks import forks
from helpers.processes.scheduler import Restarting
from helpers.timings import time_nothing

# No test looks at logs, and pytest would put handlers on sixty loggers six times for each test.
logging.lastResort = logging.NullHandler()

# What a shell starts in the background does not hear Ctrl-C, nor do its children; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Load PyTorch where tests run; the process that hands them out would load it before the workers start."""
    if config.getoption("dist", "no") == "no" or config.option.collectonly:
        import helpers.preparation  # noqa: F401


@pytest.fixture(autouse=True)
def seeded():
    from helpers.preparation import seed_all

    seed_all()


@pytest.fixture
def untimed(monkeypatch):
    """Time no network in a job."""
    time_nothing(monkeypatch)


@pytest.fixture
def exported_afresh(monkeypatch):
    """Let the exporter run although it has exported the same network before."""
    from fxprune.passes.onnx import export

    monkeypatch.setattr(export, "onnx_program", export.onnx_program.__wrapped__)


@pytest.fixture(scope="session")
def _forks():
    with forks() as run:
        yield run


@pytest.fixture
def forked(_forks, monkeypatch):
    """Run written files in forks; tests/source/test_source_export.py also runs one in a process of its own."""
    monkeypatch.setattr("fxprune.passes.source.check.subprocess.run", _forks)


# Folders, files and tests that `make quick` leaves out: they train, export, draw at random, or start processes.
SLOW = (
    "analysis/test_computed_weights.py",
    "analysis/test_fixed_lengths.py",
    "analysis/test_grouping.py",
    "analysis/test_own_code.py",
    "analysis/test_precision.py",
    "analysis/test_random_networks.py",
    "analysis/test_rules.py",
    "analysis/test_uniformity.py",
    "benchmarks/",
    "calibration/test_activations.py",
    "capture/",
    "cli/",
    "common/test_attacks.py",
    "arguments/test_inputs.py",
    "core/test_selection.py",
    "core/test_plan_for.py",
    "csgd/test_reference.py",
    "equivalence/",
    "distributed/",
    "graft/",
    "job/",
    "latency/test_latency_table.py::test_both_networks_run_in_the_runtime[onnx",
    "merge/",
    "models_zoo/",
    "onnx/",
    "options/test_zoo_recipes.py",
    "planning/test_stages.py",
    "project/test_examples.py",
    "project/test_packaging.py",
    "project/test_public_names.py",
    "project/test_writing_rules.py",
    "pytorch/test_network.py::test_a_network_that_returns_a_special_tensor_is_refused[to_mkldnn",
    "pytorch/test_network.py::test_parts_in_wrappers_are_opened",
    "pytorch/test_precision.py",
    "repair/",
    "report/",
    "rewrite/",
    "serialization/test_serialization.py",
    "serialization/test_uses.py",
    "source/test_layers.py",
    "source/test_repeats.py",
    "source/test_source_export.py",
    "store/",
    "train/",
    "verify/",
)


def pytest_ignore_collect(collection_path, config):
    """Leave whole files out of `make quick`: to import what they need takes longer than its tests."""
    if config.option.markexpr != "not slow" or collection_path.suffix not in ("", ".py"):
        return None
    path = f"{collection_path.relative_to(Path(__file__).parent).as_posix()}/"
    return True if path.startswith(tuple(name for name in SLOW if "::" not in name)) else None


def pytest_collection_finish():
    """Look for garbage among what the tests make, not among half a million objects of the libraries each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)  # a graph has thousands of objects, and was looked through again and again while it grew


# Tests that share what is dear to make, by the beginning of their names: with pytest 9.2, marks of pytest-xdist 3.8 are
# not heard.
TOGETHER = {
    "tests/analysis/test_rules.py": "samples",
    "tests/calibration/test_activations.py": "samples",
    "tests/rewrite/test_narrow.py::test_layers_of_samples": "samples",
    "tests/capture/test_decompositions.py": "opened",
    "tests/job/test_resume": "resume",
}


def _group(nodeid):
    return next((group for name, group in TOGETHER.items() if nodeid.startswith(name)), None)


@functools.cache
def _keeps_what_it_makes(file):
    text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    return 'scope="module"' in text or "@functools.cache" in text


class Together(Restarting):
    """Send tests that share something, or what their module keeps, to one worker."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return _group(nodeid) or (file if _keeps_what_it_makes(file) else nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Together(config, log)


def pytest_collection_modifyitems(items):
    # One sample after another, and then the tests that look at all of them.
    shared = [item for item in items if _group(item.nodeid) == "samples"]
    names = [*dict.fromkeys(item.callspec.params["name"] for item in shared if hasattr(item, "callspec")), None]
    shared.sort(key=lambda item: names.index(item.callspec.params["name"] if hasattr(item, "callspec") else None))
    items[:] = [*shared, *(item for item in items if _group(item.nodeid) != "samples")]
    slow = tuple(f"{Path(__file__).parent.as_posix()}/{name}" for name in SLOW)
    for item in items:
        if f"{item.path.as_posix()}::{item.name}".startswith(slow):
            item.add_marker("slow")
