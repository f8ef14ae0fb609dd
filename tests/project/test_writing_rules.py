"""docs/writing_rules.md works as it stands: its operators get rules, their channels merge, and both oracles agree."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from fxprune.analysis import RULES, Call
from fxprune.analysis.rules.registry import Entry
from fxprune.errors import FxpruneError
from fxprune.passes.rewrite.calls import CASES
from fxprune.pytorch import call_targets

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "writing_rules.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _tables_restored(monkeypatch):
    """What the page registers is gone after it."""
    monkeypatch.setattr(call_targets, "REWRITABLE", call_targets.REWRITABLE)
    call_targets.canonical_call.cache_clear()
    tables = [(table, dict(table)) for table in (RULES, CASES)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)
    call_targets.canonical_call.cache_clear()


def run(page):
    """All code of a page, block by block in one module; returns what it defined."""
    defined = {"__name__": "writing_rules"}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(block, "writing_rules.md", "exec"), defined)
    return defined


def test_the_page_runs_and_its_channels_merge():
    before = set(RULES)
    defined = run(PAGE)
    assert {str(operator) for operator in set(RULES) - before} == {
        "aten.kthvalue.default", "aten.kthvalue.values", "aten._pdist_forward.default", "aten._pdist_forward.out",
    }  # fmt: skip
    for proof in (defined["proof"], defined["apart"]):
        assert proof.passed
        assert proof.plan.widths == {"a.weight": (8, 4)}


WRONG = {
    "a name that PyTorch does not have": ('@rule("kthvalue")', '@rule("kth_value")'),
    "a rule that leaves channels out": ("return [tuple(axes)] * 2", "return [(None,) * len(axes)] * 2"),
    "a rule that breaks its promise": ("return [tuple(axes)] * 2", "return [tuple(axes)]"),
    "a rule that freezes too much": ('"kthvalue over channels", axes[dim]', '"", *axes'),
    "a rule without the factor": ("call.needs_factor(", "call.balance("),
    "another factor": ("channels, power=1 / p", "channels, power=p"),
    "no case of the rewrite": ("call_targets.REWRITABLE |= {F.pdist}", ""),
    "a verb that there is not": ("call.freeze(", "call.forbid("),
}


@pytest.mark.parametrize(("right", "wrong"), WRONG.values(), ids=WRONG)
def test_a_page_that_is_wrong_fails(right, wrong):
    assert right in PAGE
    with pytest.raises((AssertionError, FxpruneError)):
        run(PAGE.replace(right, wrong))


@pytest.mark.parametrize(("table", "of"), [("What a rule says", Call), ("What holds at every call", Entry)])
def test_the_tables_name_what_there_is(table, of):
    found = re.findall(r"`(\w+)[(=]", PAGE.split(table)[1].split("\n\n")[1])
    assert len(found) > 3
    assert set(found) <= inspect.signature(of).parameters.keys() | set(dir(of))
