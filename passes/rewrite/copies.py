"""Keep copies: what the wide network copies must not share memory in the narrow one.

With one channel left, more layouts are contiguous: ``permute(...).contiguous()`` and ``reshape`` return a view of what
the wide network copies, and a later write in place would change both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxprune.plans import Plan
from fxprune.pytorch.torch_private import pytree, storage_id

from .graph import run_on_meta
from .site import WIDE


def keep_copies(module: fx.GraphModule, plan: Plan, values: Mapping[fx.Node, Any]) -> bool:
    """Copy, in place, what a narrow graph shares and the wide one does not; tell if any."""
    if all(before == after or after > 1 for before, after in plan.widths.values()):
        return False
    coupling = plan.coupling
    wide = run_on_meta(coupling.graph_module, coupling)
    by_name = {node.name: node for node in coupling.graph_module.graph.nodes}
    shared = [
        node
        for node in module.graph.nodes
        if node.meta.get(WIDE) in by_name
        and isinstance(values.get(node), torch.Tensor)
        and _shares(node, values)
        and not _shares(by_name[node.meta[WIDE]], wide)
    ]
    for node in shared:
        with module.graph.inserting_after(node):
            copied = module.graph.call_method("clone", (node,))
        node.replace_all_uses_with(copied, delete_user_cb=lambda user, copied=copied: user is not copied)  # type: ignore[misc]
    module.recompile()
    return bool(shared)


def _shares(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Tell whether a node returns memory of what it was given."""
    given = pytree.tree_leaves([values.get(other) for other in node.all_input_nodes])
    memory = {storage_id(each) for each in given if isinstance(each, torch.Tensor)}
    value = values.get(node)
    return isinstance(value, torch.Tensor) and storage_id(value) in memory
