"""A worker that is killed fails one test; the run ends, with all others passed."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from helpers.processes.scheduler import Restarting

TEST_FILES = Path(__file__).parents[1]
TESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(12))
def test_one(number):
    if number in DEADLY:
        os.kill(os.getpid(), 9)
"""
CONFTEST = """
from helpers.processes.scheduler import Restarting

class Single(Restarting):
    def _split_scope(self, nodeid):
        return nodeid if "[1" in nodeid else "others"

def pytest_xdist_make_scheduler(config, log):
    return Single(config, log)
"""


def test_lists_of_tests_name_files_that_there_are():
    lists = runpy.run_path(str(TEST_FILES / "conftest.py"))
    named = [*lists["SLOW"], *(name.removeprefix("tests/") for name in lists["TOGETHER"])]
    assert [name for name in named if not any(TEST_FILES.glob(f"{name.partition('::')[0]}*"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("deadly", [(0,), (5, 11), (11,)])
def test_a_run_ends_although_workers_are_killed(tmp_path, deadly):
    (tmp_path / "test_some.py").write_text(f"DEADLY = {deadly}\n{TESTS}")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "xdist", "-p", "no:cacheprovider", "."]
    path = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # Two minutes: a run that goes on takes seconds; one that waits, waits for ever.
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=120)
    assert f"{len(deadly)} failed, {12 - len(deadly)} passed" in ended.stdout


def test_a_worker_that_still_collects_is_given_no_tests():
    """Where both workers die, that in the place of the first may collect longer than the other."""
    option = SimpleNamespace(loadscopereorder=False)
    config = SimpleNamespace(getvalue=lambda name: ["popen", "popen"], option=option)
    scheduler, tests = Restarting(config, mock.Mock()), [f"test_{i}.py::test_one" for i in range(8)]
    first, second, third, fourth = (mock.Mock(shutting_down=False) for _ in range(4))
    for node in (first, second):
        scheduler.add_node(node)
    for node in (first, second):
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    for dead, new in ((first, third), (second, fourth)):
        scheduler.remove_node(dead)
        scheduler.add_node(new)
    for node in (fourth, third):
        scheduler.add_node_collection(node, tests)
        scheduler.schedule()
        assert node.send_runtest_some.called
