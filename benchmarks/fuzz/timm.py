"""Damage a network in timm's layout in many ways; none may get in with other numbers.

Half of the damage stays as it is; for the other half the manifest is made consistent again. Then the folder is read by
``local-dir:FOLDER`` of fxprune's commands, and by ``timm.create_model`` after ``import fxprune.timm``. The outcome is

- ``refused``: one clear error of ours; or timm's own, of what it reads before it asks us;
- ``found``: the manifest is consistent, and the first batch ends in PyTorch's error, as the sizes disagree;
- ``same``: the network is the same as before;
- ``recorded``: the manifest is consistent and states another network, which nothing else in the folder determines;
- ``other``: another network, against the manifest. This must not happen.
- ``raw``: an exception of our code that is not ours, a crash, or the limits on time and memory. This must not happen.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
import fxprune.timm
from fxprune.errors import FxpruneError, InputError
from fxprune.passes.graft import write_timm
from fxprune.passes.store import open_network
from fxprune.passes.verify import randomised, scattered
from fxprune.pytorch.torch_private import pytree

from .folders import FuzzTarget, run_attacks
from .subjects import DamageSubject

WIDTHS = ("num_classes", "num_features", "head_hidden_size", "feature_info")
NETWORKS = ("test_resnet", "test_vit")
WHAT = "of narrow copies of timm's `test_resnet` and `test_vit` in timm's layout"


def make_subjects(place: Path, networks: Sequence[str] = NETWORKS) -> list[DamageSubject]:
    """Make what is not there yet: each network at two widths."""
    import timm

    subjects = []
    for name in networks:
        folders = [place / f"timm {name} {keep}" for keep in (0.5, 0.25)]
        for folder, keep in zip(folders, (0.5, 0.25), strict=True):
            if not (folder / "manifest.json").exists():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    wide = randomised(timm.create_model(name, num_classes=5)).eval()
                plan = scattered(fxprune.couple(wide, _images(wide)), keep=keep, seed=0)
                snapped = fxprune.snap(wide, plan)
                write_timm(fxprune.graft(wide, fxprune.narrow(snapped, plan.of_copy(snapped))), folder)
        subjects.append(DamageSubject(*folders, has_results=False))
    return subjects


def numbers(subject: DamageSubject, folder: Path, _: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what each reader builds, or its error."""
    import timm

    name = f"local-dir:{folder}"
    doors: dict[str, Callable[[], nn.Module]] = {
        "fxprune": lambda: open_network(name).model,
        "timm": lambda: timm.create_model(name, pretrained=True),
    }
    found: dict[str, Any] = {}
    for door, build in doors.items():
        try:
            with torch.random.fork_rng(), warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("ignore")  # timm's, of what is damaged
                found[door] = _described(build())
        except FxpruneError as error:
            if "\n" in str(error) or not isinstance(error, InputError):
                raise
            found[door] = error
        except Exception as error:
            # timm reads the files before it asks us: what it raises there is its own.
            if door != "timm" or traceback.extract_tb(error.__traceback__)[-1].filename == fxprune.timm.__file__:
                raise
            found[door] = error
    return found


def _images(model: Any) -> torch.Tensor:
    return torch.randn(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))


def _described(model: Any) -> Any:
    """Describe a network: its class, tensors, widths, and the bits of its outputs."""
    tensors = {name: (str(x.dtype), x.numpy(force=True).tobytes()) for name, x in model.state_dict().items()}
    try:
        with torch.no_grad():
            outputs = [x.numpy().tobytes() for x in pytree.tree_leaves(model.eval()(torch.ones(1, 3, 160, 160)))]
    except Exception as error:  # of sizes that disagree
        outputs = error
    widths = [str(getattr(model, name, None)) for name in WIDTHS]
    images = {key: value for key, value in model.pretrained_cfg.items() if key != "file"}
    return Built((type(model), tensors, widths, images), outputs)


@dataclass(frozen=True)
class Built:
    """A network: its class, tensors, widths, images, and its outputs or the error of its run."""

    network: tuple[Any, ...]
    outputs: Any


def judge(found: dict[str, Any], intact: dict[str, Any], *, signed: bool, **_: Any) -> tuple[str, str]:
    """Return the outcome and the message."""
    others = [door for door, value in found.items() if not isinstance(value, Exception) and value != intact[door]]
    failed = [found[door].outputs for door in others if isinstance(found[door].outputs, Exception)]
    if failed and signed:
        return "found", str(failed[0])
    if others:
        return ("recorded" if signed else "other"), ", ".join(others)
    errors = [str(value) for value in found.values() if isinstance(value, Exception)]
    return ("refused", errors[0]) if errors else ("same", "")


TARGET = FuzzTarget(make_subjects, numbers, judge)


def main(arguments: list[str]) -> int:
    """Return exit code 1 where a mutation got in or brought our code down."""
    return run_attacks(arguments, "timm", "Networks in timm's layout", WHAT, TARGET, count=1000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
