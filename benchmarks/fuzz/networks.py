"""Narrow thousands of random networks by random plans and compare, in resumable chunks.

A network that fails is shrunk, and reported at the end and in ``docs/reports/trust.md``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .chunks import Chunk, Kind, run_kind, smallest
from .networks_report import write_report

if TYPE_CHECKING:
    from benchmarks.random_networks import Drawn, Facts

# Of so many networks, one is captured as a graph of operations alone: that takes seconds.
ONE_IN = 25
# Of so many, one has its graph compared with it, and its pairs of channels searched: ten times the work of the rest.
ONE_CHECKED_IN = 20


def work(chunk: Chunk, record: Callable[..., None]) -> None:
    """Examine the networks of a chunk; record counts, and the smallest network of each failure."""
    import torch

    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("operations", "operators", "rules", "figures")}
    failures = []
    for seed in range(chunk.first, chunk.first + chunk.networks):
        counts["figures"]["networks"] += 1
        try:
            _examine(seed, chunk.most, counts)
        except Exception as error:  # the networks raise what they like, and all of it is news
            failures.append(f"seed {seed}: {_smallest(seed, chunk.most, error)}")
        record(counts=counts, failures=failures, at=seed)


def _examine(seed: int, most: int, counts: dict[str, Counter[str]]) -> None:
    from benchmarks.random_networks import choices_of, network_of

    drawn = network_of(choices_of(seed, most), most)
    checked = seed % ONE_CHECKED_IN == 0
    with recorded() as asked:
        facts = _compared(drawn, seed, checked)
    counts["operations"].update(set(facts.operators))
    counts["operators"].update({op for op, _ in asked})
    counts["rules"].update({rule for _, rule in asked})
    counts["figures"].update(
        groups=facts.groups,
        channels=facts.before,
        kept=facts.after,
        moved=facts.change > 1e-3,
        trained=facts.training,
        exported=facts.exported,
        refused=facts.refused,
        unstable=facts.unstable,
        checked=checked,
    )
    counts["figures"].update(_precision(drawn, seed) if facts.groups and checked else {})


def _compared(drawn: Drawn, seed: int, checked: bool) -> Facts:
    """Examine a network; one that fails without the check of its graph is examined with it."""
    from benchmarks.random_networks import examine

    try:
        return examine(drawn, seed, **_options(seed), check=checked)
    except Exception:
        if checked:
            raise
        return examine(drawn, seed, **_options(seed))


def _options(seed: int) -> dict[str, bool]:
    return {"whole": seed % 2 == 1, "exported": seed % ONE_IN == 0}


def _smallest(seed: int, most: int, error: Exception) -> str:
    """Describe the smallest network found that fails with an error of the same kind."""
    from benchmarks.random_networks import choices_of, examine, network_of

    options = _options(seed)

    def attempt(choices: list[int]) -> None:
        drawn = network_of(choices, most)
        if examine(drawn, seed, **options).groups:
            _precision(drawn, seed)

    small, last = smallest(choices_of(seed, most), error, attempt)
    return f"{type(last).__name__}: {last} ({options})\n{network_of(small, most)}\nchoices {small}"


def _precision(drawn: Any, seed: int) -> Counter[str]:
    """Count the pairs that could merge; reasons are under ``gap: ...``."""
    import fxprune
    from benchmarks.random_networks import BATCH, precision

    model, inputs = drawn.network.double(), drawn.inputs(BATCH, seed)
    found = precision(fxprune.couple(model, inputs), inputs, seed)
    counts = Counter(asked=found.asked, alone=found.alone, found=found.found, searched=found.searched)
    for kind in ("gaps", "averages", "missed", "too_much"):
        reasons = getattr(found, kind)
        counts[kind] += len(reasons)
        if kind != "too_much":
            counts.update(f"{kind}: {re.sub('`[^`]*`', '`...`', why)}" for why in reasons)
    return counts


@contextmanager
def recorded() -> Iterator[set[tuple[str, str]]]:
    """Collect the operators that are shown to a rule meanwhile, with the rule's name."""
    from fxprune.analysis import RULES, interpreter
    from fxprune.analysis.rules import pointwise
    from fxprune.pytorch.torch_private import op_name

    asked: set[tuple[str, str]] = set()

    def listening(rule: Any) -> Any:
        def call(call: Any) -> Any:
            asked.add(
                (op_name(call.op).removeprefix("aten::"), f"{rule.__module__.rpartition('.')[2]}.{rule.__name__}")
            )
            return rule(call)

        return call

    before = dict(RULES)
    RULES.update({op: replace(entry, rule=listening(entry.rule)) for op, entry in before.items()})
    interpreter.pointwise = listening(pointwise.pointwise)
    try:
        yield asked
    finally:
        RULES.update(before)
        interpreter.pointwise = pointwise.pointwise


NETWORKS = Kind(
    name="networks",
    about=(__doc__ or "").splitlines()[0],
    work=work,
    write_report=write_report,
    folders=("random_networks",),
    preload=(
        "fxprune.passes.rewrite.narrow",
        "benchmarks.random_networks.oracles",
        "benchmarks.random_networks.precision",
    ),
    count=10_000,
    most=10,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 1 if a network failed."""
    return run_kind(NETWORKS, argv)


if __name__ == "__main__":
    sys.exit(main())
