"""A rule reads arguments and results of one ATen operation, and the ids on their axes."""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxprune.pytorch.call_targets import CallTarget, computes_sizes
from fxprune.pytorch.torch_private import OpOverload, op_arguments, op_name

from .channels import Axes, Channels, Ids
from .labels import Label, tensors_in
from .lengths import factors_of, is_fixed
from .state import AnalysisState


@dataclass(frozen=True, eq=False)
class Operation:
    """One ATen operation: ``op`` on ``args``, which returned ``out``.

    Attributes:
        state: of the analysis.
        op: the operator.
        args: one entry per argument of the operator's schema, with defaults.
        out: what it returned.
        layout: sizes and strides of the first argument before the operation, which may have changed them in place.
        factor_at: calls of the graph at which the rewrite can restore the factor of this operator's sum.
        waits: the labels are those of axes that wait for channels.
    """

    state: AnalysisState
    op: OpOverload
    args: tuple[Any, ...]
    out: Any
    layout: tuple[Any, Any] | None
    factor_at: Set[CallTarget]
    waits: bool

    @property
    def channels(self) -> Channels:
        """The algebra of channels, to make new ids."""
        return self.state.channels

    @property
    def name(self) -> str:
        """The operator's name, without library and overload."""
        return op_name(self.op).split("::")[1]

    @functools.cached_property
    def outs(self) -> list[torch.Tensor]:
        """The returned tensors."""
        return tensors_in(self.out)

    @property
    def node(self) -> fx.Node | None:
        """The node of the graph that runs; None in a function that computes a stored weight."""
        return self.state.marks.node

    @property
    def inside_layer(self) -> bool:
        """Tell whether the operation is in a layer with shape attributes, which the rewrite adapts."""
        return bool(self.state.layers.inside)

    def is_given(self, ids: Ids | None) -> bool:
        """Tell whether ids entered the layer that runs, or no layer runs."""
        return not self.inside_layer or self.state.layers.reads(ids)

    def arg(self, index: int, default: Any = None) -> Any:
        """Return an argument by its index in the schema; ``default`` if it is None or absent."""
        return self.args[index] if index < len(self.args) and self.args[index] is not None else default

    def named(self, name: str) -> Any:
        """Return an argument by its name in the operator's schema; None if it has no such name."""
        names = [argument.name for argument in op_arguments(self.op)]
        return self.args[names.index(name)] if name in names else None

    def label(self, tensor: torch.Tensor) -> Label:
        """Return the label of an operand."""
        label = self.state.labels.settled(self.state.labels.of(tensor))
        return Label(label.uniform or unlabelled(tensor)) if self.waits else label

    def axes(self, tensor: torch.Tensor) -> Axes:
        """Return the ids on the axes of an operand."""
        return self.label(tensor).axes

    def fixed(self, tensor: torch.Tensor, sizes: Sequence[int] | None = None) -> list[bool]:
        """Tell of each axis of an operand whether it is as long for all inputs.

        ``sizes`` are those before an operation in place.
        """
        sizes = tensor.shape if sizes is None else sizes
        return list(map(is_fixed, factors_of(self.channels, self.state.labels.of(tensor), sizes)))

    def statistic(self, tensor: torch.Tensor) -> Ids | None:
        """Return the ids of a running statistic [channels]; None if it is computed."""
        return self.state.origins.statistic(tensor)

    @property
    def states_sizes(self) -> bool:
        """Tell whether the graph states all sizes of the call."""
        return self.node is None or not computes_sizes(self.node)

    @property
    def hangs(self) -> bool:
        """Tell whether a number in the call may depend on an input."""
        return not self.states_sizes or self.state.lengths.has_open_number(self.node)

    def sizes_stated(self) -> list[bool]:
        """Tell which sizes of the result a view states by numbers that depend on no input."""
        if not self.states_sizes:
            return [False] * self.out.dim()
        return self.state.lengths.stated(self.node, self.out.dim())

    @property
    def determines_sizes(self) -> bool:
        """Tell whether the call alone determines the sizes that it asks for, at any input."""
        return not self.hangs and not self._keeps_some()

    def _keeps_some(self) -> bool:
        """Tell whether a size that the call asks for is None, as adaptive pooling takes it."""
        node = self.node
        if node is None:
            return False
        given = [*node.args, *node.kwargs.values()]
        if node.op == "call_module":
            assert node.graph.owning_module is not None
            given = [getattr(node.graph.owning_module.get_submodule(str(node.target)), "output_size", None)]
        return any(None in size for size in given if isinstance(size, (tuple, list)))

    def sizes_asked(self) -> list[bool | None]:
        """Tell of each size that the call states whether it depends on an input; None: it is open."""
        return self.state.lengths.asked(self.node, self.out.dim())


def unlabelled(tensor: torch.Tensor) -> Axes:
    """Return axes without channels."""
    return (None,) * tensor.dim()
