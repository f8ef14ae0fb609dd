"""The outputs of a graft are those of the narrow network, in float64, at two batch sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, batch_of, inputs_for, run_on
from fxprune.errors import GraftError
from fxprune.passes.rewrite import WIDE
from fxprune.passes.verify import KeepFloat64, random_batch, randomised, relative_error, verify
from fxprune.plan_file import outputs_of
from fxprune.pytorch.modules import float64_copy, map_tensors, named_tensors
from fxprune.pytorch.source import source_of, source_of_error

from .computed_weights import Computed, with_computed
from .equations import Solution

# As in `verify`: sums of a million float64 terms keep 1e-12, and a wrong size moves an output by 1e-3 and more.
TOLERANCE = 1e-9
_MOST_TOLD = 3
_LEFT_OUT = (
    " The narrow network has no outputs but {}, so that layers of others stayed wide: graft into a model that does not "
    "compute these."
)


def check(grafted: nn.Module, narrow: fx.GraphModule, inputs: Inputs, solution: Solution, computed: Computed) -> None:
    """Compare a graft with the narrow network, with its weights and with random ones.

    Zeros in trained weights, as in a layer scale, would hide an error; random weights hide none. Weights that the class
    computes were compared as such: here the narrow network has them in float64. Outputs that the narrow network lacks
    are not compared.

    Raises:
        GraftError: they differ, or the graft does not run.
    """
    sizes, outputs = (1, max(2, batch_of(inputs))), outputs_of(narrow)
    given = random_batch(inputs, sizes[1], seed=0)
    twin = randomised(narrow)
    tensors = dict(named_tensors(twin))
    random = map_tensors(grafted, lambda name, tensor: tensors.get(name, tensor).detach().clone())
    for reference, candidate in ((twin, random), (narrow, grafted)):
        with contextlib.suppress(Exception):  # of a wrong size, which the graft itself raises again
            reference = with_computed(reference, candidate, computed)
        report = verify(reference, candidate, given, tolerance=TOLERANCE, batches=sizes, outputs=outputs)
        if not report.passed:
            left_out = "" if outputs is None else _LEFT_OUT.format(", ".join(f"`{name}`" for name in outputs))
            raise GraftError(_message(candidate, reference, given, solution, report.reason) + left_out)


def _message(grafted: nn.Module, narrow: nn.Module, inputs: Inputs, solution: Solution, reason: str) -> str:
    assert isinstance(narrow, fx.GraphModule)
    between, where = _first_difference(grafted, narrow, inputs)
    text = f"{type(grafted).__name__} cannot take these widths: {reason}{where}."
    near = [each for each in solution.unsolved if each.node in between] or list(solution.unsolved)
    near = near or [each for each in solution.lengths if each.node in between]
    reported = list(dict.fromkeys(map(str, near)))[:_MOST_TOLD]
    reported += [str(factor) for factor in solution.factors if factor.node in between]
    return text + (" In the way: " + "; ".join(reported) + "." if reported else "")


@torch.no_grad()
def _first_difference(grafted: nn.Module, narrow: fx.GraphModule, inputs: Inputs) -> tuple[set[str], str]:
    """Return the nodes between the first layer that differs and those it reads, and the line."""
    calls = [node for node in narrow.graph.nodes if node.op == "call_module"]
    seen: list[dict[str, list[Tensor]]] = []
    failure: Exception | None = None
    for each in (narrow, grafted):
        double = float64_copy(each).eval()
        returned: dict[str, list[Tensor]] = {}
        for name in {str(node.target) for node in calls}:
            with contextlib.suppress(AttributeError):
                double.get_submodule(name).register_forward_hook(_keep_output(returned, name))
        try:
            with KeepFloat64():  # type: ignore[no-untyped-call]
                run_on(double, inputs_for(double, inputs))
        except Exception as error:  # a wrong size may raise any exception
            failure = error
        seen.append(returned)
    at = f", at {source_of_error(failure)}" if failure is not None else ""
    counts: dict[str, int] = {}
    for node in calls:
        name = str(node.target)
        index = counts[name] = counts.get(name, -1) + 1
        wanted, found = (each.get(name, []) for each in seen)
        if len(wanted) <= index:  # nothing was seen of it, as in a layer of several outputs
            continue
        if len(found) <= index or relative_error(wanted[index], found[index]) > TOLERANCE:
            return _behind(node), f"; the first layer to differ is `{name}`, called at {source_of(node)}{at}"
    return _behind(next(iter(narrow.graph.find_nodes(op="output")))), at


def _behind(node: fx.Node) -> set[str]:
    """Name the node and those that it reads, without layers and what they read."""
    found, stack = {node}, [node]
    while stack:
        new = [each for each in stack.pop().all_input_nodes if each.op != "call_module" and each not in found]
        found.update(new)
        stack += new
    return {each.meta.get(WIDE, each.name) for each in found}


def _keep_output(returned: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            returned.setdefault(name, []).append(output.detach().clone())

    return hook
