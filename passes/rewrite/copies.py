"""Keep copies: what the wide network copies must not share memory in the narrow one.

With one channel left, more layouts are contiguous: ``permute(...).contiguous()`` and ``reshape`` return a view of what
the wide network copies, and a later write in place would change both.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.errors import RewriteError
from fxprune.plans import Plan
from fxprune.pytorch.torch_private import pytree, storage_id, versions_of

from .graph import check_shapes_of, run_on_meta
from .site import WIDE


def keep_copies(module: fx.GraphModule, plan: Plan) -> Mapping[fx.Node, Any]:
    """Copy, in place, what a narrow graph shares and the wide one does not; return all values.

    Raises:
        RewriteError: the wide graph shares at some batch sizes only, and writes to it.
    """
    inputs = plan.coupling.example_inputs
    values, versions = run_on_meta(module, inputs, plan)
    if all(before == after or after > 1 for before, after in plan.widths.values()):
        return values
    graph = plan.coupling.graph_module
    runs = [(values, versions, run_on_meta(graph, inputs)[0])]
    with contextlib.suppress(RewriteError):  # a network may take one batch size only
        runs.append((*run_on_meta(module, other := _other_batch(inputs)), run_on_meta(graph, other)[0]))
    by_name = {node.name: node for node in graph.graph.nodes}
    for node in [node for node in values if node.meta.get(WIDE) in by_name]:
        in_wide = [_shares(by_name[node.meta[WIDE]], wide) for _, _, wide in runs]
        shared = [_shares(node, narrow) for narrow, _, _ in runs]
        if all(before or not after for before, after in zip(in_wide, shared, strict=True)):
            continue
        written = any(
            again and made[node] != versions_of([narrow[node]])[0]
            for again, (narrow, made, _) in zip(shared, runs, strict=True)
        )
        if written and any(in_wide):
            raise RewriteError(
                f"node `{node}` is a copy at some batch sizes and a view at others, and is written to in place: with "
                "one channel left it is a view at all. Keep two channels in each group, or call `clone()`."
            )
        _copy(node, values if written else {})
    module.recompile()
    return check_shapes_of(module, plan)


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


def _other_batch(inputs: Inputs) -> Inputs:
    """Return inputs of two samples in place of one, or of one in place of several."""
    batch = 2 if all(x.shape[:1] == (1,) for x in tensors_of(inputs)) else 1
    other: Inputs = pytree.tree_map_only(
        torch.Tensor, lambda x: x.new_empty((batch, *x.shape[1:]), device="meta") if x.dim() else x, inputs
    )
    return other


def _shares(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Tell whether a node returns memory of what it was given."""
    given = pytree.tree_leaves([values.get(other) for other in node.all_input_nodes])
    memory = {storage_id(each) for each in given if isinstance(each, torch.Tensor)}
    value = values.get(node)
    return isinstance(value, torch.Tensor) and storage_id(value) in memory
