"""Write the results of the random networks as sections of ``docs/reports/trust.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.tables import markdown_table
from benchmarks.trust_page import paragraph, write_section

NETWORKS = """
`python -m benchmarks.fuzz networks` draws networks from everything that the rules know, one for each seed, narrows each
by a random plan in float64 and compares at batches of 1, 2 and 3, in a second call and in training mode; the bound is
1e-9 of the largest output. Where one fails, it is shrunk.
"""
PRECISION = """
Written by the same command, of one network in twenty. Pairs of channels that occur alike in the parameters are merged
by trial, whatever the analysis says: rows of one become those of the other, columns are added up, and what is left of
the second is noise. *Alone*: the outputs stay, so the pair could merge. *By search*: so they do in some roles out of
all that the axes of their length allow. *Under averages*: they stay as long as averages see both channels, so that
the pair may need clusters of one size, or the rewrite a factor.
"""

TOLD = """
{n[networks]:,} networks (seeds {seeds}; {fresh:,} of them on the present sources): {failed} failed. {n[groups]:,}
groups, {n[channels]:,} channels merged into {n[kept]:,}; equal rows moved an output by more than 1e-3 in {n[moved]:,}.
{n[trained]:,} were compared in training mode; {n[exported]:,} were captured as operations alone, and {n[refused]:,}
more were refused by that way. {n[unstable]:,} show nothing: rounding alone moves their outputs by more than the bound.
The graphs of {n[checked]:,} were also compared with their networks before.
"""
FOUND = """
{n[asked]:,} pairs were tried and {n[alone]:,} merge alone: {n[found]:,} of these ({share:.1%}) lie in one group,
{n[gaps]:,} do not. {n[searched]:,} pairs that are kept apart were searched by brute force, and {n[missed]:,} of them
merge. {n[averages]:,} pairs are kept apart that merge under averages. Groups of which a part merges without the rest:
{n[too_much]:,}.
"""


def write_report(rows: Mapping[int, Mapping[str, Any]], sha: str) -> None:
    """Write the sections on networks and on precision from the lines of the journal."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("operations", "operators", "rules", "figures")}
    for row in rows.values():
        for name, each in row.get("counts", {}).items():
            counts[name].update(each)
    write_section("Random networks", networks(rows, counts, sha))
    write_section("Precision", precision(counts["figures"]))


def networks(rows: Mapping[int, Mapping[str, Any]], counts: Mapping[str, Counter[str]], sha: str) -> str:
    """How many networks, of what, and which failed."""
    failures = [f"```\n{text}\n```" for _, row in sorted(rows.items()) for text in failures_of(row)]
    fresh = sum(row["chunk"]["networks"] for row in rows.values() if row["digest"] == sha)
    chunks = sorted((row["chunk"]["first"], row["chunk"]["networks"]) for row in rows.values())
    seeds = f"{chunks[0][0]} to {sum(chunks[-1]) - 1}" if chunks else "none"
    n = counts["figures"]
    told = TOLD.format(n=n, seeds=seeds, fresh=fresh, failed=len(failures))
    return "\n\n".join(
        [
            paragraph(NETWORKS),
            paragraph(told),
            *failures,
            "Operations, by the number of networks that they are in:",
            listing(counts["operations"]),
            "Rules, by the number of networks that ask them:",
            listing(counts["rules"]),
            f"{len(counts['operators'])} operators of ATen:",
            listing(counts["operators"]),
        ]
    )


def listing(counts: Counter[str]) -> str:
    """Names with their counts, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return paragraph(", ".join(f"`{name}` {count}" for name, count in ranked))


def precision(n: Counter[str]) -> str:
    """Which channels could merge, and did not."""
    kinds = ("gaps", "missed", "averages")
    reasons = Counter({name: count for name, count in n.items() if name.partition(": ")[0] in kinds and ": " in name})
    rows: list[tuple[object, ...]] = [
        (why, *(reasons[f"{kind}: {why}"] for kind in kinds))
        for why in dict.fromkeys(name.partition(": ")[2] for name, _ in reasons.most_common())
    ]
    share = n["found"] / n["alone"] if n["alone"] else 1.0
    told = FOUND.format(n=n, share=share)
    head = ("why they are kept apart", "alone", "by search", "under averages")
    return "\n\n".join([paragraph(PRECISION), paragraph(told), markdown_table(head, rows, numbers=True)])


def failures_of(row: dict[str, Any]) -> list[str]:
    """Failures of a chunk; one that ended early is one, too."""
    ended = f"chunk from seed {row['chunk']['first']}, after seed {row.get('at')}: {row.get('error')}"
    return [*row.get("failures", ()), *([ended] if row.get("error") else ())]
