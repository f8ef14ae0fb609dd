"""The mutable state of one analysis, by concern; it is never returned to a user."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from torch import fx

from .channels import Channels
from .labels import Labels, StridedViews
from .lengths import InputLengths, LayerInputs
from .marks import Choices, Marks, NodeNotes
from .origins import Origins


class AnalysisState:
    """The state of one run of a graph on the meta device.

    Attributes:
        channels: ids, and which of them are one channel.
        labels: the ids of tensors.
        origins: the stored tensors and their initial ids.
        marks: roles and events of ids.
        choices: ways to bundle.
        layers: inputs of layers with shape attributes.
        strided: views that the narrow network must copy.
        notes: facts about nodes.
        lengths: nodes that depend on sizes of the inputs.
        rewritable: the rewrite can change the numbers in the running call.
        trials: outcomes of trials of calls (:mod:`fxprune.analysis.trial`).
    """

    def __init__(self, choices: Choices, two_roles: Set[tuple[str, int]], trials: dict[Any, bool]) -> None:
        self.channels, self.labels, self.marks = Channels(), Labels(), Marks()
        self.origins = Origins(self.channels, self.labels, two_roles)
        self.layers = LayerInputs(self.channels, self.labels, self.marks)
        self.choices = choices
        self.strided, self.notes = StridedViews(), NodeNotes()
        self.lengths = InputLengths(self.channels)
        self.rewritable, self.trials = False, trials

    def freeze_views(self, env: Mapping[fx.Node, Any]) -> None:
        """Freeze what a write by the running node would change in one of a view and its base only."""
        node = self.marks.node
        frozen, view = self.strided.seen(node, env)
        self.marks.freeze("a slice of channels with a step, changed in place", *frozen)
        if view is not None and node is not None:
            self.notes.put_back[node.name] = view.name
