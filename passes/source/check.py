"""Run a written file in a fresh process, and compare it with its network in float64."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune.arguments.guards import float64_stands_in
from fxprune.arguments.inputs import Inputs, run_on
from fxprune.common.random import seeded
from fxprune.errors import ExportError, first_line
from fxprune.passes.verify import named_outputs, random_batch, relative_error
from fxprune.pytorch.modules import map_tensors
from fxprune.pytorch.torch_private import pytree

# The same operations in the same order: float64 gives the same numbers but for what a kernel adds up in another order.
TOLERANCE = 1e-10
# In float32, for networks that do not run in float64.
TOLERANCE_32 = 1e-4
SEED = 0

_SCRIPT = """
import importlib.util, sys, torch
torch.set_num_threads(int(sys.argv[4]))
spec = importlib.util.spec_from_file_location("written", sys.argv[1])
written = importlib.util.module_from_spec(spec)
spec.loader.exec_module(written)
trials = torch.load(sys.argv[2], weights_only=True)
network = written.load()
for tensor in (*network.parameters(), *network.buffers()):
    if tensor.is_floating_point():  # `Module.to` takes complex numbers for real ones
        tensor.data = tensor.data.to(trials["dtype"])
found = []
for train, inputs in trials["trials"]:
    network.train(train)
    torch.manual_seed(trials["seed"])
    with torch.no_grad():
        found.append(network(**inputs) if isinstance(inputs, dict) else network(*inputs))
assert "fxprune" not in sys.modules
leaves = torch.utils._pytree.tree_leaves
numbers = (torch.Tensor, int, float, complex)
torch.save([[leaf for leaf in leaves(each) if isinstance(leaf, numbers)] for each in found], sys.argv[3])
"""


def check_source(
    network: nn.Module, path: Path, inputs: Inputs, batches: Sequence[int]
) -> tuple[dict[str, float], bool]:
    """Return the relative error of each output by mode, and whether it was trained.

    The same random numbers are drawn in training mode, and the eval mode after it shows the running statistics.

    Raises:
        ExportError: the file does not run, or differs.
    """
    for dtype in (torch.float64, torch.float32):
        double = _converted(network, dtype)
        trials = [(False, _inputs(inputs, batch, dtype)) for batch in batches]
        training = [(True, _inputs(inputs, max(batches), dtype)), (False, _inputs(inputs, batches[0], dtype))]
        try:
            wanted = _outputs(copy.deepcopy(double), trials)
            break
        except Exception as error:
            if dtype == torch.float32:
                raise ExportError(f"the network itself does not run on random inputs: {first_line(error)}") from error
    try:
        wanted = _outputs(copy.deepcopy(double), trials + training)
        trials = trials + training
    except Exception:  # some networks run in eval mode only
        training = []
    found = _in_fresh_process(path, trials, dtype)
    errors: dict[str, float] = {}
    bound = TOLERANCE if dtype == torch.float64 else TOLERANCE_32
    for (train, _), a, b in zip(trials, wanted, found, strict=True):
        mode = "training" if train else "eval"
        names = named_outputs(a)
        if len(names) != len(b):
            raise ExportError(f"{path.name} returns {len(b)} values in {mode} mode, and the network {len(names)}.")
        for (name, value), other in zip(names.items(), b, strict=True):
            distance = relative_error(value, torch.as_tensor(other))
            key = f"{name}, {mode} mode"
            errors[key] = max(errors.get(key, 0.0), distance)
            if not distance <= bound:
                raise ExportError(
                    f"{path.name} does not compute what the network does: `{name}` differs by {distance:.3g} of its "
                    f"largest value in {mode} mode (tolerance {bound:.0e}). It was removed."
                )
    return errors, bool(training)


def _converted(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    def convert(_: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return map_tensors(network, convert)


def _inputs(inputs: Inputs, batch: int, dtype: torch.dtype) -> Inputs:
    drawn = random_batch(inputs, batch, seed=batch)
    suited: Inputs = pytree.tree_map_only(
        torch.Tensor, lambda x: x.to("cpu", dtype if x.is_floating_point() else x.dtype), drawn
    )
    return suited


def _outputs(network: nn.Module, trials: Sequence[tuple[bool, Inputs]]) -> list[Any]:
    found = []
    with torch.no_grad(), float64_stands_in(), seeded(SEED):
        for train, inputs in trials:
            network.train(train)
            torch.manual_seed(SEED)
            copied = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, inputs)
            found.append(pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, run_on(network, copied)))
    return found


def _in_fresh_process(path: Path, trials: Sequence[tuple[bool, Inputs]], dtype: torch.dtype) -> list[list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given.pt"), Path(folder, "made.pt")
        torch.save({"trials": list(trials), "dtype": dtype, "seed": SEED}, given)
        command = [sys.executable, "-I", "-c", _SCRIPT, str(path), str(given), str(made), str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise ExportError(f"{path.name} does not run: {said[-1] if said else done.returncode}. It was removed.")
        found: list[list[Any]] = torch.load(made, weights_only=True)
        return found
