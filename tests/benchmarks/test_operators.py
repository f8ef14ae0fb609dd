"""Operators are classified by what the analysis does with them, and a missing rule shows."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operators import __main__ as page
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


@pytest.mark.parametrize(("known", "status"), [(page.KNOWN, 0), (page.KNOWN - {"nonzero_static"}, 1)])
def test_a_rule_that_is_missing_and_not_known_is_an_error(known, status, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "operators.md")
    monkeypatch.setattr(page, "KNOWN", known)
    monkeypatch.setattr(page, "operators", lambda: [ATEN.sum.default, ATEN.nonzero_static.default])
    assert page.main() == status
    assert ("nonzero_static" in capsys.readouterr().err) == bool(status)
    assert "nonzero_static" in (tmp_path / "operators.md").read_text(encoding="utf-8")
