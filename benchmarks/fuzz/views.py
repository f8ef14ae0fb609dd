"""Compare thousands of narrow networks of views with the snapped ones at other sizes.

A network that fails is shrunk, and reported at the end and in ``docs/reports/trust.md``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.pages import fill
from benchmarks.trust_page import write_section

from .chunks import Chunk, Kind, failures_of, run_kind, seeds_of, smallest


def work(chunk: Chunk, record: Callable[..., None]) -> None:
    """Compare the networks of a chunk; record counts, and the smallest network of each failure."""
    import torch

    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(chunk.first, chunk.first + chunk.networks):
        try:
            counts += _counts(seed, chunk.most)
        except Exception as error:  # the networks raise what they like, and all of it is news
            failures.append(f"seed {seed}: {_smallest(seed, chunk.most, error)}")
        counts["networks"] += 1
        record(counts=counts, failures=failures, at=seed)


def _counts(seed: int, most: int) -> Counter[str]:
    from benchmarks.random_networks import choices_of, draw_from
    from benchmarks.random_views import build, compared

    found = compared(build(draw_from(choices_of(seed, most, build)), most), seed)
    return found + Counter({f"{name} somewhere": 1 for name in found})


def _smallest(seed: int, most: int, error: Exception) -> str:
    """Describe the smallest network found that fails with an error of the same kind."""
    from benchmarks.random_networks import choices_of, draw_from
    from benchmarks.random_views import build, compared

    small, last = smallest(
        choices_of(seed, most, build), error, lambda choices: compared(build(draw_from(choices), most), seed)
    )
    return f"{type(last).__name__}: {last}\n{build(draw_from(small), most)}\nchoices {small}"


def write_report(rows: Mapping[int, Mapping[str, Any]], sha: str) -> None:
    """Write the section on views from the lines of the journal."""
    counts: Counter[str] = sum((Counter(row.get("counts", {})) for row in rows.values()), Counter())
    fresh = sum(row["chunk"]["networks"] for row in rows.values() if row["digest"] == sha)
    failures = [text for _, row in sorted(rows.items()) for text in failures_of(row)]
    text = fill("fuzz/views.md.jinja", n=counts, seeds=seeds_of(rows), fresh=fresh, failures=failures)
    write_section("Views at other sizes", text)


VIEWS = Kind(
    name="views",
    about=(__doc__ or "").splitlines()[0],
    work=work,
    write_report=write_report,
    folders=("random_networks", "random_views"),
    preload=("fxprune.passes.rewrite.narrow", "benchmarks.random_views"),
    count=2_000,
    most=4,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 1 if a network failed."""
    return run_kind(VIEWS, argv)


if __name__ == "__main__":
    sys.exit(main())
