"""The answers to test samples: their metric, and which of them changed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fxprune.errors import DataError
from fxprune.models_zoo.data import CLASSIFICATION, Task
from fxprune.passes.train import Answers, answers


class Summed:
    """A metric that sees batch by batch, as those of torchmetrics."""

    higher_is_better = True

    def reset(self):
        self.total = self.count = 0

    def update(self, outputs, targets):
        self.total += float(outputs.sum())
        self.count += len(targets)

    def compute(self):
        return torch.tensor(self.total / self.count)


def test_a_metric_may_see_batch_by_batch():
    loader = [(torch.full((n, 2), 1.0), torch.zeros(n)) for n in (3, 1)]
    found = answers(nn.Identity(), loader, task=Task(metric=Summed()))
    assert str(found.score()) == "Summed 2 (4 samples)"


def test_a_metric_that_is_no_number_is_refused():
    found = answers(nn.Identity(), [(torch.ones(2, 2), torch.zeros(2))], task=Task(metric=lambda o, t: o))
    with pytest.raises(DataError, match="returned Tensor, not a number"):
        found.score()


def test_a_metric_that_is_not_finite_is_refused_where_one_trains():
    found = answers(nn.Identity(), [(torch.ones(2, 2), torch.zeros(2))], task=Task(metric=lambda o, t: float("nan")))
    with pytest.raises(DataError, match="is nan on 2 test samples"):
        found.score()
    assert found.score(finite=False).short == "nan"


def of(*outputs, task=None):
    return Answers(task or Task(metric=len), outputs, [None] * len(outputs), [2] * len(outputs))


CHANGED = {
    "equal": (torch.ones(2, 3), torch.ones(2, 3), 0),
    "rounded": (torch.ones(2, 3), torch.tensor([[1.005] * 3, [1.0] * 3]), 0),
    "one sample": (torch.ones(2, 3), torch.tensor([[1.02, 1, 1], [1, 1, 1]]), 1),
    "a class": (torch.tensor([1, 2]), torch.tensor([1, 3]), 1),
    "not a number": (torch.ones(2, 3), torch.full((2, 3), math.nan), 2),
    "no number in either": (torch.full((2,), math.nan), torch.full((2,), math.nan), 0),
    "infinite in both": (torch.full((2,), math.inf), torch.full((2,), math.inf), 0),
    "one output of two": (
        {"a": torch.ones(2), "b": torch.ones(2)},
        {"a": torch.ones(2), "b": torch.tensor([1.0, 2.0])},
        1,
    ),
    "another form": ({"a": torch.ones(2)}, {"b": torch.ones(2)}, 2),
    "an output of all samples": ({"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)}, 2),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_sample_has_changed_if_an_output_has(case):
    before, after, count = CHANGED[case]
    assert of(after).changed(of(before)) == count


def error(outputs, targets):
    return (outputs != targets).float().mean()


error.higher_is_better = False


@pytest.mark.parametrize(
    ("task", "rises"),
    [
        (CLASSIFICATION, True),
        (Task(metric=len), True),
        (Task(metric=error), False),
        (Task(metric=error, higher_is_better=True), True),
        (Task(metric=Summed(), higher_is_better=False), False),
    ],
)
def test_larger_is_better_unless_said(task, rises):
    assert task.rises is rises
