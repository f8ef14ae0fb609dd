"""Measure the rounding of a narrow network, and of the wide one with permuted channels."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("float32", "channels_last", "bfloat16", "float16", "compile", "onnxruntime", "onnxruntime_plain")
PERMUTATIONS = 3


@dataclass(frozen=True)
class RoundingTask:
    """A network, and the formats that are to be measured."""

    model: str
    formats: tuple[str, ...]


def work(task: RoundingTask, record: Callable[..., None]) -> None:
    """Record, format by format, the unit and the error of the narrow network."""
    import torch

    import fxprune
    from benchmarks.networks import small_form
    from fxprune.errors import ExportError
    from fxprune.passes.verify import random_batch, randomised, scattered

    torch.set_num_threads(1)
    form = small_form(task.model)
    model = randomised(form.build())
    inputs: Any = random_batch(form.example(model), 4, seed=0)
    coupling = fxprune.couple(model, inputs)
    plan = scattered(coupling, keep=0.5, seed=0)
    wide = fxprune.snap(model, plan).eval()
    fxprune.settle(wide, [inputs])  # with other statistics, signals vanish and outputs are constant
    narrow = fxprune.narrow(wide, plan).eval()
    others = [permuted(wide, coupling, seed) for seed in range(PERMUTATIONS)]
    record(parameters=form.parameters, image=form.image)
    unit = math.nan
    for name in FORMATS[:4]:
        if name in task.formats or name == "float32":
            (here, given), *made = [in_format(each, inputs, name) for each in (wide, narrow, *others)]
            own = rounding(wide, here, [each for each, _ in made[1:]], inputs, given)
            record(**{name: (own, difference(here, [made[0][0]], given))})
            unit = own if name == "float32" else unit
    if "onnxruntime" in task.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "narrow.onnx"
            try:
                fxprune.export_onnx(narrow, inputs, path, batches=(2,))
            except ExportError as error:
                record(onnx_refused=str(error).replace(f"{folder}/", "")[:200])
            else:
                for name, optimise in (("onnxruntime", True), ("onnxruntime_plain", False)):
                    record(**{name: (unit, difference(wide, [runner(path, optimise)], inputs))})
    if "compile" in task.formats:
        torch.compiler.reset()
        record(compile=(unit, difference(wide, [torch.compile(narrow)], inputs)))


def permuted(model: Any, coupling: Any, seed: int) -> Any:
    """Permute the channels of every group in all tensors of a network."""
    import copy

    import numpy as np
    import torch

    from fxprune.pytorch.modules import named_tensors

    made, draw = copy.deepcopy(model), np.random.default_rng(seed)
    tensors = dict(named_tensors(made))
    for group in coupling.groups.values():
        order = draw.permutation(group.width)
        for axis in (*group.tied, *group.readers):
            tensor, places = tensors[axis.parameter], axis.positions
            index = np.arange(tensor.shape[axis.dim])
            index[places] = places[order]
            with torch.no_grad():
                tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(index)))
    return made


def rounding(wide: Any, here: Any, permuted: Sequence[Any], inputs: Any, given: Any) -> float:
    """Return what a network's own rounding moves: from float64, or in another order of sums.

    In bfloat16 the order alone says little: sums run in float32, and their last bits are lost where a result is stored.

    Args:
        wide: the network.
        here: it in another format.
        permuted: it with its channels in other orders, in that format.
        inputs: for ``wide``.
        given: the same in that format.
    """
    exact = in_format(wide, inputs, "float64")
    return max(errors(outputs_of(*exact), [outputs_of(here, given)]), difference(here, permuted, given))


def in_format(model: Any, inputs: Any, name: str) -> tuple[Any, Any]:
    """Copy a network to another format, with inputs for it."""
    import copy

    import torch

    from fxprune.pytorch.torch_private import pytree

    made = copy.deepcopy(model)
    if name == "channels_last":
        return made.to(memory_format=torch.channels_last), pytree.tree_map(
            lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, inputs
        )
    kind = getattr(torch, "float32" if name == "float32" else name)
    return made.to(kind), pytree.tree_map(lambda x: x.to(kind) if x.is_floating_point() else x, inputs)


def difference(reference: Any, others: Sequence[Any], inputs: Any) -> float:
    """Return the largest relative error of all outputs of some networks; inf if not finite."""
    return errors(outputs_of(reference, inputs), [outputs_of(other, inputs) for other in others])


def errors(wanted: Sequence[Any], found: Sequence[Sequence[Any]]) -> float:
    """Return the largest relative error of all tensors; inf if what is wanted is not finite."""
    from fxprune.passes.verify import relative_error

    if not all(x.isfinite().all() for x in wanted):
        return math.inf
    return max(relative_error(a, b) for got in found for a, b in zip(wanted, got, strict=True))


def outputs_of(network: Any, inputs: Any) -> list[Any]:
    """List what a network returns."""
    import torch

    from fxprune.arguments.inputs import run_on
    from fxprune.passes.verify import named_outputs

    with torch.no_grad():
        return list(named_outputs(run_on(network, inputs)).values())


def runner(path: Path, optimise: bool) -> Any:
    """Load the file as a network."""
    from fxprune.passes.onnx import onnx_runner

    return onnx_runner(path, threads=1, optimise=optimise)
