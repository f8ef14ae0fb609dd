"""Outputs of any form are named, and rebuilt from their tensors."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from fxprune.passes.verify import named_outputs, rebuilt

Named = namedtuple("Named", "logits hidden")


@dataclass
class Record:
    logits: torch.Tensor
    loss: object = None


X, Y = torch.zeros(1), torch.ones(2)


@pytest.mark.parametrize(
    "value",
    [X, (X, [Y, None]), {"a": X, "b": (Y, "text")}, Named(X, Y), Record(X), [Record(X), {"c": Named(Y, X)}], ()],
    ids=str,
)
def test_outputs_are_rebuilt(value):
    again = rebuilt(value, named_outputs(value).values())
    assert str(again) == str(value)
    assert type(again) is type(value)
