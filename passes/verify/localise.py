"""Find the first node of a graph that differs, and the group of a plan that causes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs, as_inputs, in_order, run_on, tensors_of
from fxprune.errors import FxpruneError
from fxprune.node_facts import Shape
from fxprune.passes.merge import snap
from fxprune.passes.rewrite import WIDE, narrow
from fxprune.plans import Plan
from fxprune.pytorch.modes import InModes
from fxprune.pytorch.source import source_of
from fxprune.pytorch.torch_private import pytree

from .float64 import KeepFloat64
from .outputs import named_outputs, relative_error


def first_node(reference: nn.Module, candidate: nn.Module, plan: Plan, inputs: Inputs, *, tolerance: float) -> str:
    """Find the first node whose value is not the kept part of its value in the reference.

    Returns:
        ``node (file.py:line)``, or an empty string if all nodes agree.
    """
    wanted: dict[str, Any] = {}
    with torch.no_grad(), KeepFloat64():  # type: ignore[no-untyped-call]
        _Listener(reference, wanted, {}, plan, tolerance).hear(inputs)
        listener = _Listener(candidate, {}, wanted, plan, tolerance)
        try:
            listener.hear(inputs)
        except _FoundError as found:
            return str(found)
    return ""


class _FoundError(Exception):
    """Ends the interpreter's run and carries the node."""


class _Listener(InModes):
    def __init__(
        self, module: nn.Module, recorded: dict[str, Any], wanted: dict[str, Any], plan: Plan, tolerance: float
    ) -> None:
        assert isinstance(module, fx.GraphModule)
        super().__init__(module)
        self.recorded, self.wanted, self.plan, self.tolerance = recorded, wanted, plan, tolerance

    def hear(self, inputs: Inputs) -> None:
        assert isinstance(self.module, fx.GraphModule)
        self.run(*in_order(self.module.graph, inputs))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # Copies, since a later operation may work in place.
        name = n.meta.get(WIDE, n.name)
        self.recorded[name] = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, value)
        if name in self.wanted and n.op not in ("placeholder", "get_attr", "output"):
            self._compare(n, name, value)
        return value

    def _compare(self, node: fx.Node, name: str, value: Any) -> None:
        shapes = [s for s in pytree.tree_leaves(self.plan.coupling.nodes[name].value) if isinstance(s, Shape)]
        pairs = zip(tensors_of(self.wanted[name]), tensors_of(value), shapes, strict=False)
        for wide, found, shape in pairs:
            if relative_error(self._kept(wide, found, shape), found) > self.tolerance:
                raise _FoundError(f"{node.name} ({source_of(node)})")

    def _kept(self, wide: torch.Tensor, narrow: torch.Tensor, shape: Shape) -> torch.Tensor:
        for dim, codes in enumerate(shape.axes):
            if codes is not None and wide.shape[dim] != narrow.shape[dim]:
                wide = wide.index_select(dim, torch.from_numpy(self.plan.kept[codes].nonzero()[0]))
        return wide


@dataclass(frozen=True)
class Culprit:
    """The group or domain whose merge alone causes the largest error; prints as a clause.

    Attributes:
        group: its name; several names separated by commas.
        rel_error: largest |snapped - narrow| over largest |snapped|; inf if the rewrite itself fails.
        reason: the message of the rewrite, if it failed.
    """

    group: str
    rel_error: float
    reason: str = ""

    def __str__(self) -> str:
        why = self.reason or f"merged alone, it moves the output by {self.rel_error:.2g} of its largest value"
        return f"the worst group is `{self.group}`: {why}"


def worst_group(model: nn.Module, plan: Plan, images: Any) -> Culprit:
    """Find the group whose merge alone makes narrow and snapped network differ the most."""
    return max(
        (_merge_alone(model, plan, names, images) for names in domains_of(plan)), key=lambda part: part.rel_error
    )


def domains_of(plan: Plan) -> list[set[str]]:
    """List the sets of groups that a plan can merge alone: one group, or all of a domain."""
    every = [{group.name for group in groups} & plan.clusters.keys() for groups in plan.coupling.domains]
    return [names for names in every if names]


def _merge_alone(model: nn.Module, plan: Plan, names: set[str], images: Any) -> Culprit:
    part, group = plan.restrict(names), ", ".join(sorted(names))
    try:
        with torch.no_grad(), KeepFloat64():  # type: ignore[no-untyped-call]
            snapped = snap(model, part).eval()
            wanted = named_outputs(run_on(snapped, as_inputs(images)))
            got = named_outputs(run_on(narrow(snapped, part).eval(), as_inputs(images)))
    except FxpruneError as error:
        return Culprit(group, float("inf"), str(error))
    return Culprit(group, max(relative_error(wanted[name], got[name]) for name in got))
