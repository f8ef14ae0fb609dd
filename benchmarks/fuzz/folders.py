"""Damage a folder of results in many ways; each must be refused, found, or change nothing.

Half of the damage stays as it is; for the other half the manifest is made consistent again, as an attacker would. Then
every reader runs: ``verify``, ``load``, ``report``. The outcome is one of

- ``refused``: one clear error, from every command that reads the damaged file;
- ``found``: ``verify`` says what disagrees;
- ``same``: every number is the same as before;
- ``recorded``: the manifest is consistent, ``verify`` holds, the network is bit for bit the same, and a number changed
  that nothing else in the folder determines: a time, a loss, a weight of the network before C-SGD, a class;
- ``other``: another number changed. This must not happen.
- ``raw``: an exception that is not ours, a crash, or the limits on time and memory. This must not happen.

``build/fuzz/folders.jsonl`` has a line per mutation; finished mutations are not repeated.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import fxprune
from fxprune.common.files import write_text
from fxprune.errors import FxpruneError, InputError
from fxprune.models_zoo import registry
from fxprune.passes.onnx import check as onnx_check
from fxprune.passes.report import read_metrics, read_result, verify_folder
from fxprune.passes.store import METRICS, NETWORK_FILES, SNAPPED, SUMMARY, WIDE, is_plain, read_manifest, read_tensors

from .damage import damaged

SECONDS, BYTES = 120, 4 << 30
OUTCOMES = ("refused", "found", "same", "recorded", "other", "raw")
JOURNAL = Path("build/fuzz/folders.jsonl")
REPORT = Path("docs/reports/fuzz_folders.md")


class Small(nn.Module):
    """The smallest network that has everything: two groups, a norm, a classifier."""

    def __init__(self, num_classes: int, in_chans: int = 1, width: float = 1.0) -> None:
        super().__init__()
        channels = int(4 * width)
        self.first, self.norm = nn.Conv2d(in_chans, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, classes]."""
        x = self.second(self.norm(self.first(x)).relu()).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def make_folders(place: Path) -> tuple[Path, Path]:
    """Results of two networks."""
    registry.OWN = {**registry.OWN, "small": Small}  # type: ignore[misc]
    for name, keep in (("one", 0.5), ("other", 0.25)):
        if not (place / name / "manifest.json").exists():
            options = {"image_size": 8, "epochs": 0, "csgd_epochs": 1, "keep": keep, "seed": int(4 * keep)}
            fxprune.compress("small", "digits", output=place / name, progress=False, **options)
    return place / "one", place / "other"


class Over(BaseException):
    """The bound on time."""


def numbers(folder: Path, whole: tuple[Path, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return every number that each command reads, or our error.

    ``whole`` holds those of the folder before.
    """
    doors = {
        "verify": lambda: _verified(folder),
        "load": lambda: _loaded(folder, whole),
        "report": lambda: _reported(folder),
    }
    found = {}
    for name, door in doors.items():
        try:
            found[name] = door()
        except FxpruneError as error:
            if "\n" in str(error) or not isinstance(error, InputError):
                raise
            found[name] = error
    return found


def _verified(folder: Path) -> Any:
    check = verify_folder(folder)
    if not check.passed:
        return str(check)
    return {name: {k: x.numpy().tobytes() for k, x in read_tensors(folder / name).items()} for name in (WIDE, SNAPPED)}


def _loaded(folder: Path, whole: tuple[Path, dict[str, Any]] | None) -> Any:
    """Return the outputs of the network; equal files give the same network without a build."""
    if whole is not None and all(is_plain(folder / name) for name in NETWORK_FILES):
        before, found = whole
        if all((folder / name).read_bytes() == (before / name).read_bytes() for name in NETWORK_FILES):
            read_manifest(folder).check(folder, NETWORK_FILES)
            return found["load"]
    return _outputs(fxprune.load(folder))


def _outputs(network: nn.Module) -> Any:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kind = next(parameter.dtype for parameter in network.parameters())
    state = {name: (str(x.dtype), x.numpy(force=True).tobytes()) for name, x in network.named_parameters()}
    with torch.no_grad():
        return network(x.to(kind)).numpy().tobytes(), state, str(network.meta["preprocessing"])  # type: ignore[index]


def _reported(folder: Path) -> Any:
    read_manifest(folder).check(folder, [SUMMARY, METRICS])
    result = read_result(folder)
    return str(result).replace(str(folder), ""), result.to_json(), read_metrics(folder)


def judge(found: dict[str, Any], whole: dict[str, Any], *, signed: bool) -> tuple[str, str]:
    """Return the outcome and the message."""
    errors = {name: value for name, value in found.items() if isinstance(value, InputError)}
    others = [name for name, value in found.items() if name not in errors and value != whole[name]]
    if isinstance(found["verify"], str):
        return "found", found["verify"].splitlines()[-1]
    if "verify" in errors:
        # Whoever signs may sign another network; whoever does not gets nothing in through the other doors.
        return ("refused" if signed or not others else "other"), str(errors["verify"])
    if errors:
        return "refused", str(next(iter(errors.values())))
    if not others:
        return "same", ""
    changed = found["load"][:2] != whole["load"][:2] or found["verify"][SNAPPED] != whole["verify"][SNAPPED]
    return ("recorded" if signed and not changed else "other"), ", ".join(others)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Inside, time is bounded."""

    def over(*_: object) -> None:
        raise Over(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def attack(number: int, seed: int, folders: tuple[Path, Path], whole: dict[str, Any]) -> dict[str, Any]:
    """The line of one mutation."""
    random, signed = Random(f"{seed} {number}"), number % 2 == 1
    # Where onnxruntime went another way is looked for, which takes seconds, in one case of ten.
    where = onnx_check._where if number % 20 < 2 else lambda *_: "Not looked for."
    line: dict[str, Any] = {"number": number, "seed": seed, "signed": signed}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        shutil.copytree(folders[0], folder)
        line["kind"], line["file"], line["done"] = damaged(folder, folders[1], random, signed=signed)
        try:
            with bounded(), contextlib.redirect_stderr(io.StringIO()), patch.object(onnx_check, "_where", where):
                line["outcome"], line["says"] = judge(numbers(folder, (folders[0], whole)), whole, signed=signed)
        except (Exception, Over) as error:  # which is what is looked for
            line["outcome"], line["says"] = "raw", f"{type(error).__name__}: {error}"
        line["says"] = line["says"].replace(place, "")[:300]
    return line


def run(count: int, seed: int, journal: Path) -> list[dict[str, Any]]:
    """Run the mutations that the journal lacks; record and replace processes that die."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    folders = make_folders(journal.parent / "folders")
    whole = numbers(folders[0])
    done = _read(journal, seed)
    order = sorted(range(count), key=lambda number: number % 2)  # what is refused at once comes first
    while left := [number for number in order if number not in done]:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _work(left, seed, folders, whole, journal)
        _, status = os.waitpid(child, 0)
        done = _read(journal, seed)
        if status and (lost := next((number for number in left if number not in done), None)) is not None:
            said = f"the process ended with {os.waitstatus_to_exitcode(status)}"
            _tell(journal, {"number": lost, "seed": seed, "signed": lost % 2 == 1, "outcome": "raw", "says": said})
            done = _read(journal, seed)
    return [done[number] for number in range(count)]


def _work(left: list[int], seed: int, folders: tuple[Path, Path], whole: dict[str, Any], journal: Path) -> None:
    code = 1
    try:
        torch.set_num_threads(1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        for number in left:
            _tell(journal, attack(number, seed, folders, whole))
        code = 0
    finally:
        os._exit(code)


def _tell(journal: Path, line: dict[str, Any]) -> None:
    with open(journal, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _read(journal: Path, seed: int) -> dict[int, dict[str, Any]]:
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {line["number"]: line for line in found if line["seed"] == seed}


def page(lines: list[dict[str, Any]], seed: int) -> str:
    """The counts as Markdown, and every mutation that should not be."""
    text = [
        "# Damaged folders of results",
        "",
        f"{len(lines):,} mutations of the results of a small network on digits, seed {seed}, by `make fuzz "
        "ARGS=folders`; what the outcomes mean is at the top of `benchmarks/fuzz/folders.py`.",
    ]
    for signed, title in ((False, "As it happens"), (True, "With the manifest made consistent again")):
        part = [line for line in lines if line["signed"] == signed]
        text += ["", f"## {title}", "", f"| damage | {' | '.join(OUTCOMES)} |", f"|---|{'--:|' * len(OUTCOMES)}"]
        for kind in [*sorted({line.get("kind", "unknown") for line in part}), None]:
            rows = [line for line in part if kind is None or line.get("kind", "unknown") == kind]
            count = collections.Counter(line["outcome"] for line in rows)
            cells = " | ".join(f"{count[outcome]:,}" for outcome in OUTCOMES)
            text.append(f"| {'**all**' if kind is None else kind} | {cells} |")
    bad = [line for line in lines if line["outcome"] in ("other", "raw")]
    if bad:
        text += ["", "## Not as it should be", ""]
        text += [f"- {b['number']}: {b.get('kind')} {b.get('file')} ({b.get('done')}): {b['says']}" for b in bad[:50]]
    return "\n".join(text) + "\n"


def main(arguments: list[str]) -> int:
    """Exit code 1 where a mutation got in or brought the reader down."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    lines = run(args.count, args.seed, JOURNAL)
    write_text(REPORT, page(lines, args.seed))
    count = collections.Counter(line["outcome"] for line in lines)
    print(", ".join(f"{count[outcome]:,} {outcome}" for outcome in OUTCOMES), "->", REPORT)
    return int(bool(count["other"] + count["raw"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
