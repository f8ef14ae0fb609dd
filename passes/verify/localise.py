"""Two graphs that should agree agree at every node; the first node where they do not is where to look."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.common.inputs import Inputs, in_order
from fxprune.common.source import source_of
from fxprune.coupling import Shape
from fxprune.passes.rewrite import WIDE
from fxprune.plans import Plan

from .float64 import StaysDouble
from .outputs import relative_error


def first_divergence(
    reference: nn.Module, candidate: nn.Module, plan: Plan, inputs: Inputs, *, tolerance: float
) -> str:
    """The first node whose value in the candidate is not the kept part of its value in the reference.

    Args:
        reference: a graph module of the captured graph, with snapped weights.
        candidate: the same graph with other weights, or the narrow graph.
        plan: says what is kept, where the candidate is narrow.
        inputs: for both.
        tolerance: relative error at which two values differ.

    Returns:
        ``node (file.py:line)``, or an empty string where all nodes agree.
    """
    wanted: dict[str, Any] = {}
    with torch.no_grad(), StaysDouble():  # type: ignore[no-untyped-call]
        _Listener(reference, wanted, {}, plan, tolerance).hear(inputs)
        listener = _Listener(candidate, {}, wanted, plan, tolerance)
        try:
            listener.hear(inputs)
        except _FoundError as found:
            return str(found)
    return ""


class _FoundError(Exception):
    """Carries the node out of the interpreter."""


class _Listener(fx.Interpreter):
    def __init__(
        self, module: nn.Module, heard: dict[str, Any], wanted: dict[str, Any], plan: Plan, tolerance: float
    ) -> None:
        assert isinstance(module, fx.GraphModule)
        super().__init__(module)
        self.extra_traceback = False
        self.heard, self.wanted, self.plan, self.tolerance = heard, wanted, plan, tolerance

    def hear(self, inputs: Inputs) -> None:
        assert isinstance(self.module, fx.GraphModule)
        self.run(*in_order(self.module.graph, inputs))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # Copies, since a later operation may work in place.
        name = n.meta.get(WIDE, n.name)
        self.heard[name] = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, value)
        if name in self.wanted and n.op not in ("placeholder", "get_attr", "output"):
            self._compare(n, name, value)
        return value

    def _compare(self, node: fx.Node, name: str, value: Any) -> None:
        shapes = [s for s in pytree.tree_leaves(self.plan.coupling.nodes[name].value) if isinstance(s, Shape)]
        pairs = zip(_tensors(self.wanted[name]), _tensors(value), shapes, strict=False)
        for wide, narrow, shape in pairs:
            if relative_error(self._kept(wide, narrow, shape), narrow) > self.tolerance:
                raise _FoundError(f"{node.name} ({source_of(node)})")

    def _kept(self, wide: torch.Tensor, narrow: torch.Tensor, shape: Shape) -> torch.Tensor:
        for dim, codes in enumerate(shape.axes):
            if codes is not None and wide.shape[dim] != narrow.shape[dim]:
                wide = wide.index_select(dim, torch.from_numpy(self.plan.kept[codes].nonzero()[0]))
        return wide


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
