"""`fxprune checks` says what is there and what is missing; shells complete every command and flag."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from helpers.command_line import run

from fxprune.cli.commands import checks
from fxprune.cli.main import COMMANDS, SHELLS

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def installed(monkeypatch):
    """Declare what pyproject.toml does, and install just that; the mapping may be changed."""
    extras = PROJECT["optional-dependencies"]
    declared = [*PROJECT["dependencies"], *(f'{each}; extra == "{name}"' for name in extras for each in extras[name])]
    found = {checks._found(each.partition(";")[0])["name"]: "9999.0" for each in declared}

    def version(name):
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(importlib.metadata, "version", version)
    return found


def as_json(capsys):
    code, out, err = run(capsys, "checks --json")
    assert err == ""
    return code, json.loads(out)


def test_what_is_there(capsys, installed):
    code, found = as_json(capsys)
    assert (code, found["complete"], found["packages"]["torch"]) == (
        0,
        True,
        {"name": "torch", "version": "9999.0", "wanted": ">=2.9", "good": True},
    )
    assert [*found][2:] == [  # after `command` and `exit_code`
        *("fxprune", "python", "platform", "complete", "packages", "extras", "devices", "cpu", "cache")
    ]
    assert "cpu" in found["devices"] and found["cpu"]["threads"] >= 1
    code, out, _ = run(capsys, "checks")
    assert code == 0 and out.endswith("\ncomplete\n\nNext: fxprune inspect resnet20    # needs no download\n")
    assert all(name in out for name in (*found["packages"], *found["extras"]))


def test_every_extra_is_known_with_its_use(installed):
    assert checks.EXTRAS.keys() == PROJECT["optional-dependencies"].keys() == checks.checked()["extras"].keys()


@pytest.mark.parametrize(
    ("package", "version", "word"),
    [("torch", None, "MISSING"), ("torch", "2.8.1", "TOO OLD"), ("tqdm", None, "MISSING")],
)
def test_a_package_that_is_needed(capsys, installed, package, version, word):
    installed.pop(package)
    if version is not None:
        installed[package] = version
    code, out, _ = run(capsys, "checks")
    assert (code, out.splitlines()[-1].startswith("INCOMPLETE")) == (1, True)
    assert [line.split()[0] for line in out.splitlines() if line.endswith(word)] == [package]


def test_an_extra_that_is_missing_is_no_error(capsys, installed):
    installed.pop("tensorboard")
    installed["torch-pruning"] = "1.0"  # another one is wanted
    code, found = as_json(capsys)
    lacking = {name for name, each in found["extras"].items() if not each["complete"]}
    assert (code, lacking) == (0, {"benchmarks", "tensorboard", "zoo"})
    out = run(capsys, "checks")[1]
    assert re.search(r"^tensorboard .* tensorboard$", out, re.M) and "pip install 'fxprune[benchmarks]'" in out


def test_a_cache_that_cannot_be_written(capsys, installed, monkeypatch, tmp_path):
    def refused(*_, **__):
        raise PermissionError("no")

    monkeypatch.setenv("HF_HOME", str(tmp_path / "made" / "later"))
    assert checks._cache() == {"folder": str(tmp_path / "made" / "later"), "writable": True}
    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refused)
    assert "NOT writable" in run(capsys, "checks")[1]


def test_a_checkout_that_was_never_installed_has_nothing_to_miss(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert checks._declared() == ({}, {})


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_each(name):
    line = (importlib.import_module(f"fxprune.cli.commands.{name}").__doc__ or "").partition("\n")[0].rstrip(".")
    assert COMMANDS[name] == line[:1].lower() + line[1:]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_every_command_and_flag(capsys, shell):
    pytest.importorskip("shtab")
    code, out, _ = run(capsys, f"--print-completion {shell}")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert "--csgd-epochs" in out or shell == "tcsh"
    program = shutil.which(shell)
    assert "test_vit4" in out or shell == "tcsh"
    pairs = {"report --de": "--debug", "plan x --target tensorrt-": "tensorrt-int8", "compress --resume a": "auto"}
    pairs |= {"inspect test_vit4": "test_vit4", "compress --data fash": "fashion-mnist"}
    pairs |= {"compress --only x --fre": "--freeze", "compress --optimizer adah": "adahessian"}
    for words, expected in pairs.items():
        last = len(words.split())
        bash = f"COMP_WORDS=(fxprune {words}); COMP_CWORD={last}; _shtab_fxprune; echo ${{COMPREPLY[@]}}"
        asked = {"bash": bash, "fish": f"complete -C 'fxprune {words}'"}.get(shell)
        if program and asked:
            done = subprocess.run([program, "-c", f"{out}\n{asked}"], capture_output=True, text=True, check=True)
            assert done.stdout.split("\t")[0].split() == [expected]
