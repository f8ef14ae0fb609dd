"""Check this installation: versions, devices, extras and what they lack, the cache.

The exit code is 1 if a package that fxprune needs is missing or too old.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

from fxprune import __version__
from fxprune.common.table import table
from fxprune.common.text import listed

from ..reply import Reply, next_steps

# What an extra is for. Its packages are those that the installed distribution declares.
EXTRAS = {
    "data": "the data set mnist5k",
    "plots": "the picture of `make photos`",
    "benchmarks": "`make photos` and `make prices`",
    "tensorboard": "compress --tensorboard",
    "openvino": "export --format openvino",
    "torchao": "quantised networks of torchao",
    "nncf": "int8 networks of OpenVINO and ONNX",
    "zoo": "`make coverage ARGS=--libraries`",
    "docs": "`make docs`",
    "dev": "tests, style and types of a checkout",
}
# Instructions by which oneDNN and onnxruntime choose their kernels, the fastest last.
INSTRUCTIONS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
    "bf16",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: every command takes --json."""


def run(args: argparse.Namespace) -> Reply:
    """Check the installation."""
    found = checked()
    step = next_steps({"inspect resnet20": "needs no download"}) if found["complete"] else ""
    return Reply(f"{_shown(found)}{step}", lambda: found, 0 if found["complete"] else 1)


def checked() -> dict[str, Any]:
    """Return what this installation has, as a JSON value.

    A package has its ``version``, null if it is missing, and what is ``wanted``; it is ``good`` if they fit.
    """
    needed, extras = _declared()
    return {
        "fxprune": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "complete": all(each["good"] for each in needed.values()),
        "packages": needed,
        "extras": {
            name: {"for": EXTRAS.get(name, ""), "complete": not _missing(has), "packages": has}
            for name, has in extras.items()
        },
        "devices": _devices(),
        "cpu": {"threads": os.cpu_count(), "instructions": _instructions()},
        "cache": _cache(),
    }


def _shown(found: dict[str, Any]) -> str:
    rows = [(name, each["version"] or "-", each["wanted"], _verdict(each)) for name, each in found["packages"].items()]
    more = [
        (name, each["for"], "nothing" if each["complete"] else listed(_missing(each["packages"]), 1))
        for name, each in found["extras"].items()
    ]
    cpu, cache = found["cpu"], found["cache"]
    writable = "writable" if cache["writable"] else "NOT writable: set HF_HOME to a folder that is"
    absent = next((name for name, each in found["extras"].items() if not each["complete"]), None)
    return "\n".join(
        [
            f"fxprune {found['fxprune']}, Python {found['python']}, {found['platform']}",
            f"\n{table(('package', 'version', 'wanted', 'verdict'), rows)}",
            f"\n{table(('extra', 'for', 'lacks'), more)}\n",
            *([f"an extra is installed like this: pip install 'fxprune[{absent}]'"] if absent else []),
            f"devices: {', '.join(found['devices']) or 'unknown, since torch is missing'}",
            f"CPU: {cpu['threads']} threads; {', '.join(cpu['instructions']) or 'its instructions are unknown'}",
            f"downloads: {cache['folder']}, {writable}",
            "complete" if found["complete"] else "INCOMPLETE: run `pip install fxprune` again",
        ]
    )


def _declared() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the packages that the installed distribution asks for, and those of each extra."""
    import importlib.metadata  # not for --help: it is slow

    needed, extras = dict[str, Any](), dict[str, dict[str, Any]]()
    try:
        declared = importlib.metadata.requires("fxprune") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return needed, extras
    for each in declared:
        requirement, _, marker = each.partition(";")
        package, extra = _found(requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        (extras.setdefault(extra[1], {}) if extra else needed)[package["name"]] = package
    return needed, extras


def _found(requirement: str) -> dict[str, Any]:
    """Compare a requirement such as ``torch>=2.9`` with what is installed."""
    import importlib.metadata

    name, bound, wanted = re.findall(r"([\w.-]+)\s*(>=|==|)\s*([\w.]*)", requirement)[0]
    version = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(name)
    exact = version == wanted if bound == "==" else True
    good = version is not None and exact and _numbers(version) >= _numbers(wanted)
    return {"name": name, "version": version, "wanted": bound + wanted, "good": good}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _verdict(each: dict[str, Any]) -> str:
    return "good" if each["good"] else "MISSING" if each["version"] is None else "TOO OLD"


def _missing(packages: dict[str, Any]) -> list[str]:
    return [name for name, each in packages.items() if not each["good"]]


def _devices() -> list[str]:
    """Return the devices that torch can compute on."""
    try:
        import torch
    except ImportError:
        return []
    found = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *found]


def _instructions() -> list[str]:
    """Return the instruction sets by which the kernels of oneDNN and onnxruntime are chosen."""
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    except OSError:  # only Linux tells
        return []
    return [name for name in INSTRUCTIONS if name in flags]


def _cache() -> dict[str, Any]:
    """Return the folder of downloaded weights, and whether it takes a file."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("HF_HOME") or Path(home) / "huggingface")
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return {"folder": str(folder), "writable": True}
    except OSError:
        return {"folder": str(folder), "writable": False}
