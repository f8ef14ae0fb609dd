"""A stored answer: what a network returns for numbers that a seed determines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, inputs_for, run_on, tensors_of
from fxprune.arguments.question import question
from fxprune.common.silence import silenced
from fxprune.errors import ModelError, first_line
from fxprune.passes.verify import KeepFloat64, float64_reader, named_outputs, relative_error
from fxprune.pytorch.modules import map_tensors
from fxprune.pytorch.precision import dtype_name, to_float64
from fxprune.pytorch.torch_private import pytree

# Error allowed by the precision of the computation. Sums in another order keep these in float64 and in float32; in 16
# bits a network keeps two digits. A wrong weight moves an output by a part of itself.
BOUNDS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}


# Integers are drawn below the largest of these with which the network runs, as an index of some table must be.
INTEGERS_BELOW = (65536, 16384, 4096, 1024, 256, 64, 16, 4, 1)


def first_answer(network: nn.Module, inputs: Inputs) -> tuple[str, int, dict[str, Tensor]]:
    """Ask a network that is to be saved.

    Args:
        network: any network.
        inputs: shapes and types of its arguments, on the meta device.

    Returns:
        The precision, the bound on integers, and each tensor that it returns, by its path.

    Raises:
        ModelError: it does not run on such inputs.
    """
    integers = any(not x.is_floating_point() and not x.is_complex() for x in tensors_of(inputs))
    failure: Exception | None = None
    for below in INTEGERS_BELOW if integers else INTEGERS_BELOW[-1:]:
        try:
            precision, answer = ask(network, inputs, below=below)
            return precision, below, answer
        except Exception as error:  # a network may raise any exception
            failure = error
    assert failure is not None
    why = first_line(failure)[:200]
    raise ModelError(f"this network does not run on inputs like its example: {why}") from failure


def ask(
    network: nn.Module,
    inputs: Inputs,
    *,
    precision: str = "",
    below: int = INTEGERS_BELOW[-1],
    run: Callable[[Any, Inputs], Any] = run_on,
) -> tuple[str, dict[str, Tensor]]:
    """Run a copy of a network in eval mode on the CPU, in float64 if it can.

    It is asked with two samples, or with as many as its example has, if it does not take two.

    Args:
        network: any network.
        inputs: shapes and types of its arguments, on the meta device.
        precision: of an answer to be compared with: ``float64``, or the network's own.
        below: bound on integers.
        run: calls the copy.

    Returns:
        The precision, and each tensor that it returns, by its path.
    """
    with silenced():  # a graph prints the line that fails
        try:
            return _answer(network, question(inputs, below), precision, run)
        except Exception:  # whatever is wrong shows with the other batch, too
            return _answer(network, question(inputs, below, batch=None), precision, run)


def _answer(
    network: nn.Module, given: Inputs, precision: str, run: Callable[[Any, Inputs], Any]
) -> tuple[str, dict[str, Tensor]]:
    if precision in ("", "float64"):
        try:
            double = float64_reader(network, "cpu")
            asked = pytree.tree_map_only(Tensor, to_float64, given)
            with torch.no_grad(), KeepFloat64():  # type: ignore[no-untyped-call]
                return "float64", _copied(named_outputs(run(double, asked)))
        except Exception:  # some networks run in their own precision only; another fault shows there, too
            if precision:
                raise
    own = map_tensors(network, lambda _, tensor: tensor.detach().to("cpu", copy=True)).eval()
    with torch.no_grad():
        answer = named_outputs(run(own, inputs_for(own, given)))
    kinds = [dtype_name(each.dtype) for each in answer.values() if each.is_floating_point()]
    return kinds[0] if kinds else "float32", _copied(answer)


def disagreement(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Return the largest relative error of any tensor; inf if others are returned."""
    if wanted.keys() != found.keys():
        return math.inf
    return max((relative_error(wanted[name], found[name]) for name in wanted), default=0.0)


def _copied(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in answer.items()}
