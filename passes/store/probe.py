"""A stored answer: what a network returns for numbers that a seed determines."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.common.inputs import Inputs, inputs_for, run_on
from fxprune.common.modules import map_tensors
from fxprune.common.torch_private import pytree
from fxprune.passes.verify import KeepFloat64, as_float64, named_outputs, relative_error, to_float64

BATCH = 2
# Error allowed by the precision of the computation. Sums in another order keep these in float64 and in float32; in 16
# bits a network keeps two digits. A wrong weight moves an output by a part of itself.
BOUNDS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}


def ask(network: nn.Module, inputs: Inputs, *, precision: str = "") -> tuple[str, dict[str, Tensor]]:
    """Run a copy of a network in eval mode on the CPU, in float64 if it can.

    Args:
        network: any network.
        inputs: shapes and types of its arguments, on the meta device; a batch has two samples.
        precision: of an answer to be compared with: ``float64``, or the network's own.

    Returns:
        The precision, and each tensor that it returns, by its path.
    """
    if precision in ("", "float64"):
        try:
            double = map_tensors(network, lambda name, tensor: as_float64(name, tensor).cpu()).eval()
            question = pytree.tree_map_only(Tensor, to_float64, _question(inputs))
            with torch.no_grad(), KeepFloat64():  # type: ignore[no-untyped-call]
                return "float64", _copied(named_outputs(run_on(double, question)))
        except Exception:
            if precision:
                raise
    own = map_tensors(network, lambda _, tensor: tensor.detach().to("cpu", copy=True)).eval()
    with torch.no_grad():
        answer = named_outputs(run_on(own, inputs_for(own, _question(inputs))))
    kinds = [str(each.dtype).removeprefix("torch.") for each in answer.values() if each.is_floating_point()]
    return kinds[0] if kinds else "float32", _copied(answer)


def disagreement(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Return the largest relative error of any tensor; inf if others are returned."""
    if wanted.keys() != found.keys():
        return math.inf
    return max((relative_error(wanted[name], found[name]) for name in wanted), default=0.0)


def _copied(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in answer.items()}


def _question(inputs: Inputs) -> Inputs:
    """Draw the numbers; NumPy keeps this generator's sequence for ever."""
    source = np.random.RandomState(0)

    def draw(x: Tensor) -> Tensor:
        shape = (BATCH, *x.shape[1:]) if x.dim() else ()
        if not (x.is_floating_point() or x.is_complex()):
            return torch.zeros(shape, dtype=x.dtype)  # an index that every table has
        return torch.as_tensor(source.standard_normal(shape)).to(x.dtype)

    drawn: Inputs = pytree.tree_map_only(Tensor, draw, inputs)
    return drawn
