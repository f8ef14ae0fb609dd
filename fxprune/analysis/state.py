"""What one analysis collects, by concern; it changes as long as the graph runs and is never returned to a user."""

from __future__ import annotations

from collections.abc import Mapping

from .channels import Channels
from .labels import Labels, StridedViews
from .layer_inputs import LayerInputs
from .marks import Choices, Marks, NodeNotes
from .origins import Origins


class AnalysisState:
    """State of one run of a graph on the meta device.

    Attributes:
        channels: ids, and which of them are one channel.
        labels: which ids the tensors carry.
        origins: the stored tensors, with which ids begin.
        marks: roles of ids, and what happened to them.
        choices: ways to bundle.
        layers: inputs of layers with shape attributes.
        strided: views that the narrow network must copy.
        notes: what is to be known of nodes.
        rewritable: the rewrite can change the numbers in the call that is running.
    """

    def __init__(self, choices: Mapping[str, int], default_choice: int) -> None:
        self.channels, self.labels, self.marks = Channels(), Labels(), Marks()
        self.origins = Origins(self.channels, self.labels)
        self.layers = LayerInputs(self.channels, self.labels, self.marks)
        self.choices = Choices(choices, default_choice)
        self.strided, self.notes = StridedViews(), NodeNotes()
        self.rewritable = False
