"""Mutants are small, of one change each, and put in place where every caller sees them."""

from __future__ import annotations

import ast
import signal

import pytest

from benchmarks.mutation import __main__ as mutation
from benchmarks.mutation.line_map import LineMap
from benchmarks.mutation.operators import Mutant, mutants, mutated
from benchmarks.mutation.tests import apply, code_of, in_forks
from fxprune.pytorch import view_factors

MADE = {
    "x = a < b": {"a <= b"},
    "x = a is None": {"a is not None"},
    "x = a and b": {"a or b", "a", "b"},
    "x = not a": {"a"},
    "x = -a": {"a"},
    "x = a * b": {"a // b"},
    "x = 2": {"3", "1"},
    "x = 0": {"1"},
    "x = True": {"False"},
    "x = a if c else b": {"b if c else a"},
    "f(a, b)": {"", "f(b, a)"},
    "unify(a, b)": {""},
    "f('why', a)": {""},
    "x[0] = a": {"", "1"},
    "x += a": {""},
    "x: int = a": set(),
    "assert a == 1": set(),
    "f(a, strict=True)": {""},
    "raise ValueError(a + 1)": set(),
}


@pytest.mark.parametrize("source", MADE)
def test_the_changes_of_a_statement(source):
    assert {mutant.after for mutant in mutants("file.py", source)} == MADE[source]


def test_a_condition_is_turned_and_nothing_else_changes():
    source = "class A:\n    def f(self, x: int = 1) -> int:\n        if x:\n            g(x)\n        return x\n"
    found = {(m.function, m.kind, m.before): m for m in mutants("file.py", source)}
    assert (
        set(found) == {("", "constant", "1"), ("A.f", "condition turned", "x"), ("A.f", "statement left out", "g(x)")}
        and len(mutants("file.py", source)) == 4
    )
    turned = found["A.f", "condition turned", "x"]
    assert ast.unparse(mutated(source, turned.index)) == ast.unparse(ast.parse(source.replace("if x:", "if not x:")))


def test_a_mutant_keeps_its_place_until_its_function_changes():
    source = "def f(x):\n    return x[1] + x[1]\n\n\ndef g(x):\n    return x[1]\n"
    places = [m.identity for m in mutants("file.py", source)]
    assert len(set(places)) == len(places) > 6
    moved = [m.identity for m in mutants("file.py", "import os\n\n" + source.replace("x[1]\n\n", "x[2]\n\n"))]
    assert [place for place in places if place in moved] == [place for place in places if " g " in place[0]]


def test_a_mutant_is_seen_by_those_who_hold_the_function():
    path, held = "fxprune/pytorch/view_factors.py", view_factors.view_factors
    every = mutants(path, (mutation.ROOT / path).read_text(encoding="utf-8"))
    mutant = next(m for m in every if m.before == "m != n")
    code = held.__code__
    try:
        apply(mutant, code_of(mutant))
        with pytest.raises(IndexError):  # it goes on where both sides are equal
            held((6,), (6,))
    finally:
        held.__code__ = code
    assert held((2, 3), (6,)) == [((0, 1), (0,))]


def test_the_page_tells_survivors_and_their_reasons(monkeypatch, capsys):
    every = [Mutant("fxprune/analysis/groups/grouping.py", "f", 1, "constant", str(n), "9", n) for n in range(5)]
    outcomes = zip([0, 0, 1, 2, 3], ["survived", "killed by a test", "survived", "survived", "no test runs it"])
    rows = [{"place": every[n].identity[0], "source": "", "outcome": said} for n, said in outcomes]
    written = {}
    monkeypatch.setattr(mutation, "every_mutant", lambda seed: every)
    monkeypatch.setattr(mutation, "tried", lambda: rows)
    monkeypatch.setattr(mutation, "reasons", lambda: {every[1].identity[0]: "equivalent: nobody asks"})
    monkeypatch.setattr(mutation, "write_section", written.__setitem__)
    assert mutation.main(["--report", "--sample", "4"]) == 1
    assert capsys.readouterr().out == "4 of 4 mutants tried, 1 killed, 2 open\n"
    text = " ".join(written["Mutations of the sources"].split())
    assert "`1` to `9`: equivalent: nobody asks" in text and text.count(": open") == 2
    assert "4 of 5 mutants" in text and "0 of 4 (0.0%, between 0.0% and 49.0%)" in text and "1 of 3 (33.3%)" in text


def test_a_seed_draws_an_order_of_all_mutants():
    first, again, other = (mutation.every_mutant(seed) for seed in (0, 0, 1))
    assert first == again != other and sorted(m.identity for m in first) == sorted(m.identity for m in other)


def test_a_process_that_is_ended_says_by_which_signal():
    asked = {"ended": lambda: str(signal.raise_signal(signal.SIGKILL)), "long": lambda: "said" * 10**5}
    found = {key: (said, ended) for key, said, ended in in_forks(asked.items(), 2)}
    assert found == {"ended": ("", signal.SIGKILL), "long": ("said" * 10**5, 0)}


def test_tests_that_run_other_lines_come_first():
    """Of tests that run the same lines, all but one are likely to see the same."""
    path = "fxprune/analysis/groups/grouping.py"
    lines = {"a": [1, 2], "b": [1, 2], "c": [1, 3], "d": [2, 3], "e": [1, 2]}
    row = {"quick": True, "seconds": 1.0, "lines": {path: [1]}}
    rows = {name: {**row, "lines": {path: each}} for name, each in lines.items()}
    found = LineMap({**rows, "slow": {**row, "quick": False}, "longer": {**row, "seconds": 2.0}})
    mutant = Mutant(path, "f", 1, "constant", "0", "9", 0)
    assert list(found.tests_of(mutant, {}, 99)) == ["a", "c", "longer", "b", "e"]
    assert found.tests_of(mutant, {"e": 1}, 4.0) == {"e": 1.0, "c": 1.0, "longer": 2.0}
