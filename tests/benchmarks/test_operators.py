"""Operators are classified by what the analysis does with them, and a missing rule shows."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operators.classes import class_of, operators
from benchmarks.operators.trial import verdict

ATEN = torch.ops.aten


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (ATEN.permute.default, "rule"),
        (ATEN.sigmoid.default, "pointwise"),
        (ATEN.linear.default, "composed"),
        (ATEN.arange.default, "no tensor"),
        (ATEN.histc.default, "freezes"),
    ],
)
def test_each_operator_has_a_class(operator, kind):
    assert class_of(operator) == kind
    assert operator in set(operators())


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (ATEN.sigmoid.default, "passes channels"),
        (ATEN.avg_pool2d.default, "passes channels"),
        (ATEN.max.default, "needs no duplicate"),
        (ATEN.sum.default, "mixes channels"),
        (ATEN.histc.default, "mixes channels"),
        (ATEN.convolution.default, "not tried"),
    ],
)
def test_a_trial_sees_what_a_rule_would_say(operator, kind):
    assert verdict(operator) == kind
