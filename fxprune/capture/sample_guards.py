"""A guard on the number of samples lets one sample pass, if the graph is right there, too.

A model often asks whether there are several samples, only to skip what changes nothing for one: ``if b != n:
x = x.expand(b, -1)``. The graph has the branch of several samples. If a graph that is captured at one sample certainly
runs the same operators there, but for views of a whole tensor, the guards let one sample pass. Equal numbers are no
reason: a mask or a clamp may change nothing in the example only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs, as_meta, in_order, tensors_of
from fxprune.equivalence import UNCHECKED, Programs
from fxprune.errors import CaptureError
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modes import is_mode
from fxprune.pytorch.modules import MetaMode, device_of, to_meta
from fxprune.pytorch.torch_private import pytree

from .export import EVAL_ONLY


def admit_one_sample(module: fx.GraphModule, inputs: Inputs, capture_again: Callable[[Inputs], fx.GraphModule]) -> None:
    """Let one sample pass the guards, if ``capture_again`` gives the same program for one."""
    samples = {len(x) for x in tensors_of(inputs) if x.dim()}
    given = dict(zip(module.graph.find_nodes(op="placeholder"), in_order(module.graph, inputs)))
    first = next((node for node, x in given.items() if isinstance(x, torch.Tensor) and x.dim()), None)
    if len(samples) != 1 or samples == {1} or first is None:
        return
    one: Inputs = pytree.tree_map_only(torch.Tensor, lambda x: x[:1] if x.dim() else x, inputs)
    guards = _refusing(module, one)
    if not guards:
        return
    before = [(guard, guard.args) for guard in guards]
    with module.graph.inserting_after(list(given)[-1]):
        size = module.graph.call_method("size", (first, 0))
    for guard in guards:
        value, expected, where = guard.args
        with module.graph.inserting_before(guard):
            single = module.graph.call_function(operator.eq if expected else operator.ne, (size, 1))
            loose = module.graph.call_function(operator.or_ if expected else operator.and_, (value, single))
        guard.args = (loose, expected, where)
    module.recompile()
    if not _proven(module, one, capture_again):
        for guard, args in before:
            guard.args = args
        for node in reversed(module.graph.nodes):
            if not node.users and node.target in (operator.eq, operator.ne, operator.or_, operator.and_):
                module.graph.erase_node(node)
        if not size.users:
            module.graph.erase_node(size)
        module.recompile()


def _proven(module: fx.GraphModule, one: Inputs, capture_again: Callable[[Inputs], fx.GraphModule]) -> bool:
    """Tell whether a graph certainly runs what is captured at one sample."""
    try:
        single = capture_again(one)
    except CaptureError:  # the model itself refuses one sample
        return False
    refuses, also = (any(node.target == EVAL_ONLY for node in each.graph.nodes) for each in (single, module))
    if _modes(single) != _modes(module):  # what is not recorded for gradients, for example, runs the same operators
        return False
    if single.meta[UNCHECKED] not in ("", module.meta[UNCHECKED]) or refuses != also:
        return False
    programs, given = Programs(single, module, views=False), [as_meta(one)]
    return all(programs.are_equal(given, training=training) for training in ((False,) if refuses else (False, True)))


def _modes(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    """List where a graph enters and leaves modes, by how many operators come before."""
    found: list[tuple[Any, ...]] = []
    before = 0
    for node in module.graph.nodes:
        if is_mode(node):
            found.append((node.target, [arg for arg in node.args if not isinstance(arg, fx.Node)], before))
        elif node.op.startswith("call") and getattr(node.target, "__name__", node.target) not in _OF_SIZES:
            before += 1
    return found


# Calls on sizes, and views of a whole tensor, of which a graph may have more than the other.
_OF_SIZES = frozenset({
    "add", "and_", "eq", "expand", "floordiv", "ge", "getattr", "getitem", "gt", "guard_equal", "le", "lt", "mod",
    "mul", "ne", "neg", "not_", "or_", "reshape", "size", "sub", "view",
})  # fmt: skip


def _refusing(module: fx.GraphModule, one: Inputs) -> list[fx.Node]:
    """List the guards of yes and no that refuse one sample; none, if something else does."""
    run = _Collect(to_meta(module), module.graph, device_of(module))
    try:
        with torch.no_grad(), MetaMode():  # type: ignore[no-untyped-call]
            run.run(*in_order(module.graph, pytree.tree_map_only(torch.Tensor, lambda x: x.to("meta"), one)))
    except Exception:  # one sample cannot pass
        return []
    return run.refusing


class _Collect(OnMeta):
    """Runs a graph on the meta device, and notes the guards that refuse."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.refusing: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, unless it is a guard that refuses."""
        if n.target is guard_equal and isinstance(n.args[1], bool):
            value, expected, _ = self.fetch_args_kwargs_from_env(n)[0]
            if isinstance(value, bool) and value != expected:
                self.refusing.append(n)
                return None
        return super().run_node(n)
