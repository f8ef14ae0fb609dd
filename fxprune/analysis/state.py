"""The mutable state of one analysis, by concern; it is never returned to a user."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch

from .channels import Channels
from .labels import Label, Labels, StridedViews
from .layer_inputs import LayerInputs
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
        rewritable: the rewrite can change the numbers in the running call.
        made: the operators in the running call, with the (sizes, label) of their results.
    """

    def __init__(self, choices: Mapping[str, int], default_choice: int, two_roles: Set[tuple[str, int]]) -> None:
        self.channels, self.labels, self.marks = Channels(), Labels(), Marks()
        self.origins = Origins(self.channels, self.labels, two_roles)
        self.layers = LayerInputs(self.channels, self.labels, self.marks)
        self.choices = Choices(choices, default_choice)
        self.strided, self.notes = StridedViews(), NodeNotes()
        self.rewritable = False
        self.made: list[tuple[Any, list[tuple[torch.Size, Label]]]] = []
