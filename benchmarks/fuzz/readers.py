"""Read a folder by every command, and judge what came out against the undamaged one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

import fxprune
from fxprune.arguments.inputs import tensors_of
from fxprune.errors import FxpruneError, InputError
from fxprune.passes.report import read_metrics, read_result, verify_folder
from fxprune.passes.store import METRICS, NETWORK_FILES, SNAPPED, SUMMARY, WIDE, is_regular, read_manifest, read_tensors
from fxprune.passes.verify import named_outputs, relative_error

from .subjects import DamageSubject


def numbers(subject: DamageSubject, folder: Path, intact: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return every number that each command reads, or our error."""
    found: dict[str, Any] = {}
    doors: dict[str, Callable[[], Any]] = {
        "verify": lambda: _verified(folder, subject),
        # What `verify` refuses is not run.
        "load": lambda: _loaded(folder, subject, intact, runs=not isinstance(found["verify"], InputError)),
    }
    if subject.has_results:
        doors["report"] = lambda: _reported(folder)
    for name, door in doors.items():
        try:
            found[name] = door()
        except FxpruneError as error:
            if "\n" in str(error) or not isinstance(error, InputError):
                raise
            found[name] = error
    return found


def _verified(folder: Path, subject: DamageSubject) -> Any:
    check = verify_folder(folder)
    if not check.passed:
        return str(check)
    files = (WIDE, SNAPPED) if subject.has_results else ()
    return {name: {k: x.numpy().tobytes() for k, x in read_tensors(folder / name).items()} for name in files}


@dataclass(frozen=True)
class Loaded:
    """A loaded network: its numbers, and what no number says."""

    outputs: dict[str, torch.Tensor]
    state: dict[str, tuple[str, bytes]]
    notes: str

    def differs(self, other: Loaded, *, determined: bool) -> bool:
        """Tell whether it computes something else; ``determined``: other files say each number."""
        if self.outputs.keys() != other.outputs.keys():
            return True
        if determined:
            return self.state != other.state or any(not x.equal(other.outputs[k]) for k, x in self.outputs.items())
        # A thousand times the bound on the stored answer, which is one of other inputs.
        return max(relative_error(x, other.outputs[name]) for name, x in self.outputs.items()) > 1e-6


def _loaded(folder: Path, subject: DamageSubject, intact: dict[str, Any] | None, *, runs: bool) -> Any:
    """Describe the network; equal files give the same network without a build."""
    if intact is not None and all(_equal(folder / name, subject.folder / name) for name in NETWORK_FILES):
        read_manifest(folder).check(folder, NETWORK_FILES)
        return intact["load"]
    return _answers(fxprune.load(folder), subject, runs=runs)


def _equal(path: Path, before: Path) -> bool:
    return is_regular(path) and path.read_bytes() == before.read_bytes()


def _answers(network: fx.GraphModule, subject: DamageSubject, *, runs: bool) -> Loaded:
    generator = torch.Generator().manual_seed(0)
    x: torch.Tensor = torch.randn(3, 1, 8, 8, generator=generator)
    if not subject.has_results:
        x, network = torch.randint(0, 8, (3, 5), generator=generator), network.double()
    state = {name: (str(x.dtype), x.numpy(force=True).tobytes()) for name, x in network.state_dict().items()}
    trains = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    meta = {name: value for name, value in network.meta.items() if name not in ("plan", "earlier", "example_inputs")}
    plans = [each.content for each in (network.meta["plan"], *network.meta["earlier"])]
    shapes = [x.shape for x in tensors_of(network.meta["example_inputs"])]
    outputs: dict[str, torch.Tensor] = {}
    # What fails here, `verify` should have found; only other outputs are compared.
    with torch.no_grad(), contextlib.suppress(Exception):
        if runs:
            outputs = named_outputs(network(x.to(next(network.parameters()).dtype) if subject.has_results else x))
    return Loaded(outputs, state, f"{network}\n{network.code}\n{trains} {meta} {plans} {shapes}")


def _reported(folder: Path) -> Any:
    read_manifest(folder).check(folder, [SUMMARY, METRICS])
    result = read_result(folder)
    return str(result).replace(str(folder), ""), result.to_json(), read_metrics(folder)


def judge(found: dict[str, Any], intact: dict[str, Any], *, signed: bool, determined: bool = True) -> tuple[str, str]:
    """Return the outcome and the message."""
    errors = {name: value for name, value in found.items() if isinstance(value, InputError)}
    others = [name for name, value in found.items() if name not in errors and _differ(value, intact[name])]
    if isinstance(found["verify"], str):
        return "found", next(line for line in found["verify"].splitlines() if "FAILS" in line)
    if "verify" in errors:
        # Whoever signs may sign another network; whoever does not gets nothing in through the other doors.
        return ("refused" if signed or not others else "other"), str(errors["verify"])
    if errors:
        return "refused", str(next(iter(errors.values())))
    if not others:
        return "same", ""
    changed = found["load"].differs(intact["load"], determined=determined) or (
        found["verify"].get(SNAPPED) != intact["verify"].get(SNAPPED)
    )
    return ("recorded" if signed and not changed else "other"), ", ".join(others)


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Loaded):
        return one.notes != other.notes or one.differs(other, determined=True)
    return bool(one != other)
