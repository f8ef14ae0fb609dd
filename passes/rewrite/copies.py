"""Keep copies: what the wide network copies must not share memory in the narrow one.

With one channel left, or channels that were picked with a step, more layouts are contiguous:
``permute(...).contiguous()`` and ``reshape`` return a view of what the wide network copies, and a later write in place
would change both.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.errors import PlanError, RewriteError
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import GROUPED_MM, pytree, storage_id, versions_of

from .graph import check_shapes_of, run_on_meta
from .site import WIDE


def keep_copies(module: fx.GraphModule, plan: Plan) -> Mapping[fx.Node, Any]:
    """Copy, in place, what a narrow graph shares and the wide one does not; return all values.

    Raises:
        RewriteError: the wide graph shares at some sizes of inputs only, and writes to it.
    """
    inputs = plan.coupling.example_inputs
    values, versions = run_on_meta(module, inputs, plan)
    graph = plan.coupling.graph_module
    one_left = any(before > after == 1 for before, after in plan.widths.values())
    by_name = {node.name: node for node in graph.graph.nodes}
    if not one_left and not any(_steps_elsewhere(by_name.get(node.meta.get(WIDE)), node) for node in values):
        return values
    runs = [(values, versions, run_on_meta(graph, inputs)[0])]
    for other in _other_inputs(inputs):
        with contextlib.suppress(RewriteError):  # a network may take one size only
            runs.append((*run_on_meta(module, other), run_on_meta(graph, other)[0]))
    for node in [node for node in values if node.meta.get(WIDE) in by_name]:
        in_wide = [_shares(by_name[node.meta[WIDE]], wide) for _, _, wide in runs]
        shared = [_shares(node, narrow, {*by_name}) for narrow, _, _ in runs]
        if all(before or not after for before, after in zip(in_wide, shared, strict=True)):
            continue
        written = any(
            again and made[node] != versions_of([narrow[node]])[0]
            for again, (narrow, made, _) in zip(shared, runs, strict=True)
        )
        if written and any(in_wide):
            raise RewriteError(
                f"node `{node}` is a copy at some sizes of inputs and a view at others, and is written to in place: "
                "with one channel left it is a view at all. Keep two channels in each group, or call `clone()`."
            )
        _copy(node, values if written else {})
    module.recompile()
    return check_shapes_of(module, plan)


def check_groups(values: Mapping[fx.Node, Any]) -> None:
    """Check the widths of products of groups: their rows fill multiples of 16 bytes.

    Raises:
        PlanError: it does not.
    """
    for node in values:
        for x in [values[each] for each in node.all_input_nodes[:2]] if node.target is GROUPED_MM else ():
            unit = 16 // x.element_size()
            if x.dtype != torch.float64 and any(stride % unit for stride in x.stride()[-2:] if stride != 1):
                raise PlanError(
                    f"`{node}` multiplies groups of size {tuple(x.shape)}, where PyTorch takes multiples of {unit} of "
                    f"{str(x.dtype).removeprefix('torch.')} only: plan with round_to={unit}."
                )


def _copy(node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
    """Copy what a node returns, and guard known sizes: of one row, the wide one may be a view."""
    graph, given = node.graph, node.all_input_nodes[0]
    with graph.inserting_before(node.next):
        copied = graph.call_method("clone", (node,))
        for dim, size in enumerate(values[given].shape if given in values else ()):
            if dim and size > 1:
                several = graph.call_function(operator.gt, (graph.call_method("size", (given, dim)), 1))
                graph.call_function(guard_equal, (several, True, f"size {dim} before `{node}` is two or more"))
    node.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)


def _steps_elsewhere(wide: fx.Node | None, narrow: fx.Node) -> bool:
    """Tell whether a cut with a step is another one in the narrow graph: a list or a range."""
    if wide is None or wide.target not in (operator.getitem, torch.ops.aten.slice.Tensor):
        return False
    if wide.target is not operator.getitem:
        return (wide.args[4] if len(wide.args) > 4 else wide.kwargs.get("step")) not in (None, 1)
    items = wide.args[1] if isinstance(wide.args[1], tuple) else (wide.args[1],)
    return wide.args[1:2] != narrow.args[1:2] and any(
        isinstance(item, slice) and item.step not in (None, 1) for item in items
    )


def _other_inputs(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs of another number of samples (one or two), and inputs of longer axes."""
    given = tensors_of(inputs)
    last = max((x.dim() for x in given), default=0)
    for axes in ({0}, {*range(2, last)}, *({axis} for axis in range(1, last))):

        def resized(x: torch.Tensor, axes: Set[int] = axes) -> torch.Tensor:
            factors = [2 if axis in axes else 1 for axis in range(x.dim())]
            sizes = [size * factor for size, factor in zip(x.shape, factors, strict=True)]
            if 0 in axes and sizes:
                sizes[0] = 2 if all(each.shape[:1] == (1,) for each in given) else 1
            return x.new_empty(sizes, device="meta")

        yield pytree.tree_map_only(torch.Tensor, resized, inputs)


def _shares(node: fx.Node, values: Mapping[fx.Node, Any], marks: Set[str] = frozenset()) -> bool:
    """Tell whether a node returns memory of what it was given.

    With ``marks``, it was given what stands for a wide node of these names: what the rewrite makes between is no other.
    """
    given, waiting = list[Any](), [*node.all_input_nodes]
    while waiting:
        other = waiting.pop()
        if marks and other.meta.get(WIDE) not in marks:
            waiting += other.all_input_nodes
        else:
            given.append(values.get(other))
    memory = {storage_id(each) for each in pytree.tree_leaves(given) if isinstance(each, torch.Tensor)}
    value = values.get(node)
    return isinstance(value, torch.Tensor) and storage_id(value) in memory
