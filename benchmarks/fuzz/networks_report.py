"""Write the results of the random networks as sections of ``docs/reports/trust.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.pages import fill, paragraph
from benchmarks.trust_page import write_section

from .chunks import failures_of, seeds_of


def write_report(rows: Mapping[int, Mapping[str, Any]], sha: str) -> None:
    """Write the sections on networks and on precision from the lines of the journal."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("operations", "operators", "rules", "figures")}
    for row in rows.values():
        for name, each in row.get("counts", {}).items():
            counts[name].update(each)
    write_section("Random networks", networks(rows, counts, sha))
    write_section("Precision", precision(counts["figures"]))


def networks(rows: Mapping[int, Mapping[str, Any]], counts: Mapping[str, Counter[str]], sha: str) -> str:
    """Report how many networks were drawn, of what, and which failed."""
    failures = [text for _, row in sorted(rows.items()) for text in failures_of(row)]
    fresh = sum(row["chunk"]["networks"] for row in rows.values() if row["digest"] == sha)
    lists = {name: counts[name] for name in ("operations", "rules", "operators")}
    told = {"n": counts["figures"], "seeds": seeds_of(rows), "fresh": fresh, "failures": failures}
    return fill("fuzz/networks.md.jinja", **told, **lists, listing=listing)


def listing(counts: Counter[str]) -> str:
    """List names with their counts, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return paragraph(", ".join(f"`{name}` {count}" for name, count in ranked))


def precision(n: Counter[str]) -> str:
    """Report which channels could merge, and did not."""
    kinds = ("gaps", "missed", "averages")
    reasons = Counter({name: count for name, count in n.items() if name.partition(": ")[0] in kinds and ": " in name})
    rows: list[tuple[object, ...]] = [
        (why, *(reasons[f"{kind}: {why}"] for kind in kinds))
        for why in dict.fromkeys(name.partition(": ")[2] for name, _ in reasons.most_common())
    ]
    share = n["found"] / n["alone"] if n["alone"] else 1.0
    return fill("fuzz/precision.md.jinja", n=n, share=share, reasons=rows)
