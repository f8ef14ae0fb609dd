"""Some networks of views at other sizes, and that one without its guards is found."""

from __future__ import annotations

from benchmarks.fuzz import chunks, views
from benchmarks.fuzz.chunks import Chunk
from benchmarks.random_networks.choices import choices_of, draw_from
from benchmarks.random_views import build
from fxprune.passes.rewrite import graph


def told(chunk):
    facts = {}
    views.work(chunk, lambda **more: facts.update(more))
    return facts


def test_narrow_networks_of_views_are_equal_or_refuse_a_size():
    facts = told(Chunk(0, 5, 4))
    assert facts["failures"] == [] and facts["at"] == 4
    assert facts["counts"]["networks"] == 5 and facts["counts"]["equal"] > 5


def test_a_network_without_its_guards_is_told_in_small(monkeypatch):
    monkeypatch.setattr(chunks, "SECONDS_TO_SHRINK", 0.0)
    monkeypatch.setattr(graph, "guard_cuts", lambda *_: None)
    failures = told(Chunk(36, 1, 4))["failures"]
    assert len(failures) == 1 and failures[0].startswith("seed 36: Wrong: at (") and "choices [" in failures[0]


def test_choices_make_the_same_views_again():
    choices = choices_of(7, 8, build)
    assert str(build(draw_from(choices), 8)) == str(build(draw_from(choices), 8)) and len(choices) > 10


def test_the_page_tells_counts_and_failures(monkeypatch):
    written = {}
    monkeypatch.setattr(views, "write_section", written.__setitem__)
    row = {"chunk": {"first": 0, "networks": 3}, "digest": "now", "counts": {"networks": 3, "guarded": 5}}
    views.write_report({0: {**row, "failures": ["seed 1: Wrong: at"]}}, "now")
    text = " ".join(written["Views at other sizes"].split())
    assert "3 networks (seeds 0 to 2; 3 of them on the present sources): 1 failed." in text
    assert "a guard refused 5 (in 0 networks)" in text and "``` seed 1: Wrong: at ```" in text
