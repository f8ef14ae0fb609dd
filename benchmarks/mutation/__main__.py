"""Check by mutations that a test detects every small change of rules, merge and rewrite.

Mutants come in an order drawn by a seed, so that an interrupted run has tried a uniform sample; it continues later. A
mutant that survives needs a reason in ``benchmarks/mutation/reasons.csv``, or a test.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scipy.stats import binomtest
from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.pages import fill
from benchmarks.tables import read_csv
from benchmarks.trust_page import write_section

from .line_map import WORK, LineMap
from .operators import Mutant, mutants
from .tests import MOST_SECONDS, Session, in_forks, outcome, trial, with_tests

JOURNAL = WORK / "outcomes.csv"
REASONS = Path(__file__).with_name("reasons.csv")
FIELDS = ("place", "source", "line", "tests", "outcome", "seconds")
# What is mutated, and the tests that are to see it. The whole suite sees more, and takes minutes for each.
SUBJECTS = (
    "fxprune/analysis/rules/*.py",
    "fxprune/analysis/groups/grouping.py",
    "fxprune/analysis/groups/codes.py",
    "fxprune/analysis/channels.py",
    "fxprune/analysis/lengths/*.py",
    "fxprune/analysis/operation.py",
    "fxprune/equivalence/mode_differences.py",
    "fxprune/capture/mode_guards.py",
    "passes/merge/*.py",
    "passes/rewrite/*.py",
    "passes/rewrite/axes/*.py",
)
TESTS = (
    "analysis/test_rules.py", "rewrite/test_rewrite.py", "analysis/test_grouping.py", "rewrite/test_narrow.py",
    "rewrite/test_absorb.py", "rewrite/test_absorb_tables.py", "rewrite/test_stored.py",
    "analysis/test_computed_weights.py", "analysis/test_precision.py", "analysis/test_uniformity.py",
    "merge/test_snap.py", "merge/test_settle.py", "rewrite/test_narrow_networks.py", "rewrite/test_layouts.py",
    "csgd/test_csgd.py",
    "rewrite/test_views.py", "rewrite/test_cuts.py", "rewrite/test_flattened_views.py", "rewrite/test_lengths.py",
    "rewrite/axes/test_axis_orders.py", "rewrite/axes/test_axes_of_calls.py", "rewrite/axes/test_axes_of_views.py",
    "rewrite/axes/test_guarded_places.py", "rewrite/axes/test_own_code.py", "rewrite/axes/test_own_inputs.py",
    "rewrite/test_groups.py", "rewrite/test_written_views.py", "rewrite/test_absorb_shared.py",
    "analysis/test_channels.py", "analysis/test_fixed_lengths.py",
    "analysis/test_layer_inputs.py", "analysis/test_input_lengths.py", "analysis/test_repeats.py",
    "analysis/test_shares.py", "calibration/test_activations.py", "capture/test_capture_guards.py",
    "capture/test_modes.py", "capture/test_families.py",
    "equivalence/test_equivalence.py", "equivalence/test_program.py",
)  # fmt: skip


def subjects() -> list[str]:
    """List the paths of the files that are mutated."""
    return [str(path.relative_to(ROOT)) for pattern in SUBJECTS for path in sorted(ROOT.glob(pattern))]


def every_mutant(seed: int = 0) -> list[Mutant]:
    """List all mutants by hashes of seed and key: the first N are a uniform sample."""
    found = [m for path in subjects() for m in mutants(path, (ROOT / path).read_text(encoding="utf-8"))]
    return sorted(found, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.identity[0]}".encode()).hexdigest())


def tried() -> list[dict[str, str]]:
    """List all outcomes, the oldest first."""
    return [row for row in read_csv(JOURNAL) if row.get("outcome")]


def known() -> dict[tuple[str, str], dict[str, str]]:
    """Place -> newest outcome; a function that changed since has places of its own."""
    return {(row["place"], row["source"]): row for row in tried()}


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 1 if a mutant survived for which there is no reason."""
    args = _parser().parse_args(argv)
    if not args.report:
        with_tests(args.files, lambda session: _run(session, args))
    return _report(args)


def _run(session: Session, args: argparse.Namespace) -> None:
    line_map = LineMap.of(session, subjects(), args.files, args.jobs)
    done, deadline = known(), time.monotonic() + args.seconds
    chosen = _chosen(args)[: args.sample]
    again = {place for place, row in done.items() if args.survivors and not row["outcome"].startswith("killed")}
    again = {place for place in again if place[0] not in reasons()}
    todo = [mutant for mutant in chosen if mutant.identity not in done or mutant.identity in again]
    kills = Counter(row["outcome"].removeprefix("killed by ") for row in done.values())

    def trials() -> Iterator[tuple[tuple[Mutant, int, float], Callable[[], str]]]:
        for mutant in tqdm(todo, "mutants", mininterval=10.0):
            start = time.monotonic()
            if start > deadline:
                break
            tests = line_map.tests_of(mutant, kills, args.tests)
            yield (mutant, len(tests), start), trial(session, mutant, tests) if tests else lambda: "no test runs it"

    for (mutant, tests, start), said, ended in in_forks(trials(), args.jobs):
        found = outcome(said, ended)
        kills[found.removeprefix("killed by ")] += 1
        row = (*mutant.identity, mutant.line, tests, found, f"{time.monotonic() - start:.1f}")
        _add(dict(zip(FIELDS, row)))
        if not found.startswith("killed"):
            tqdm.write(f"{mutant.path}:{mutant.line} {found}: {mutant.key}")


def _add(row: dict[str, object]) -> None:
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    fresh = not JOURNAL.exists()
    with open(JOURNAL, "a", encoding="utf-8", newline="") as file:
        journal = csv.DictWriter(file, FIELDS)
        if fresh:
            journal.writeheader()
        journal.writerow(row)


def _chosen(args: argparse.Namespace) -> list[Mutant]:
    """Return all mutants whose keys contain one of the given texts, in the order of the seed."""
    return [mutant for mutant in every_mutant(args.seed) if any(text in mutant.key for text in args.only)]


def reasons() -> dict[str, str]:
    """Place of a mutant that may survive, without the hash of its function -> why."""
    return {row["place"]: row["reason"] for row in read_csv(REASONS)}


def _report(args: argparse.Namespace) -> int:
    every = _chosen(args)
    every, in_all = every[: args.sample], len(every)
    done, why = known(), reasons()
    by_file: dict[str, Counter[str]] = {path: Counter() for path in sorted({mutant.path for mutant in every})}
    open_ones = []
    for mutant in every:
        count = by_file[mutant.path]
        count["mutants"] += 1
        row = done.get(mutant.identity)
        if row is None:
            continue
        count["tried"] += 1
        if row["outcome"].startswith("killed"):
            count["killed"] += 1
        elif mutant.identity[0] in why:
            count[why[mutant.identity[0]].partition(":")[0]] += 1
        else:
            count["open"] += 1
            open_ones.append(mutant)
    total: Counter[str] = sum(by_file.values(), Counter())
    kinds = sorted({kind for count in by_file.values() for kind in count} - {"mutants", "tried", "killed", "open"})
    head = ("file", "mutants", "tried", "killed", *kinds, "open", "killed of those that could be")
    rows: list[tuple[object, ...]] = [
        (f"`{name}`" if name != "all" else name, *(c[column] for column in head[1:-1]), _share(c))
        for name, c in (*by_file.items(), ("all", total))
        if c["mutants"]
    ]
    first = [row["outcome"].startswith("killed") for row in {row["place"]: row for row in reversed(tried())}.values()]
    could = total["tried"] - total["equivalent"]
    survivors = [
        f"- `{m.path}:{m.line}` {m.kind}, `{m.before}` to `{m.after or 'nothing'}`: {why.get(m.identity[0], 'open')}"
        for m in sorted(every, key=lambda m: (m.path, m.line))
        if (row := done.get(m.identity)) and not row["outcome"].startswith("killed")
    ]
    page = fill(
        "mutation/page.md.jinja",
        tests=LineMap.count(),
        files=len(args.files),
        most=MOST_SECONDS,
        tried=total["tried"],
        mutants=in_all,
        seed=args.seed,
        first=_interval(sum(first), len(first)),
        now=f"{total['killed']:,} of {could:,} ({_share(total)})",
        header=head,
        rows=rows,
        survivors=survivors,
    )
    write_section(args.section, page)
    print(f"{total['tried']} of {total['mutants']} mutants tried, {total['killed']} killed, {len(open_ones)} open")
    return 1 if open_ones else 0


def _interval(killed: int, of: int) -> str:
    if not of:
        return "none"
    low, high = binomtest(killed, of).proportion_ci(method="wilson")
    return f"{killed:,} of {of:,} ({killed / of:.1%}, between {low:.1%} and {high:.1%})"


def _share(count: Counter[str]) -> str:
    could = count["tried"] - count["equivalent"]
    return f"{count['killed'] / could:.1%}" if could else "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, default=10**6, metavar="N", help="so many of them (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin none after so long (default: never)")
    parser.add_argument("--tests", type=float, default=float("inf"), help="seconds of tests for each (default: all)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="those whose key contains one of these")
    parser.add_argument(
        "--files", nargs="+", default=TESTS, metavar="FILE", help="of tests (default: all that may see one)"
    )
    parser.add_argument(
        "--section", default="Mutations of the sources", metavar="TITLE", help="of the page, to replace"
    )
    parser.add_argument("--survivors", action="store_true", help="also those that survived without a reason, again")
    parser.add_argument("--report", action="store_true", help="try nothing, only write the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
