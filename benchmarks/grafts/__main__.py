"""Graft the smallest network of each class of timm, and write ``docs/reports/graft.*``.

Each network has its own process. An interrupted run continues; networks that were checked to the end are not run again
without --again.
"""

from __future__ import annotations

import fnmatch
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.networks import EntryPoint, read_classes
from benchmarks.pages import fill
from benchmarks.runs import parser_of, run_all
from fxprune.common.files import write_text

from .check import KEEP, SMALLER, check
from .rows import COLUMNS, ROWS, Rows, read_grafts, text_of

PAGE = ROWS.with_suffix(".md")
LOGS = ROOT / "build" / "grafts"

# Why a class cannot take the widths of its smallest network, in one sentence.
WHY = {
    "coat_tiny": "Attention takes the width of a head from that of what goes in (`C // num_heads`): the narrow "
    "network has two widths there; with widths that agree (`fxprune.plan(widths=)`) it grafts.",
    "swiftformer_xs": "Queries and keys are divided by their length, which no weight scales, so that nothing takes "
    "the factor of the shorter narrow vectors.",
    "vit_tiny_patch16_dinov3_qkvb": "Attention returns as many channels as go in (`reshape(B, N, C)`): the "
    "narrow network has two widths there; with widths that agree (`fxprune.plan(widths=)`) it grafts.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the networks that were not checked to the end; write the page after each."""
    args = parser_of("grafts", __doc__, "network", "resnet*", seconds=900.0, jobs=False).parse_args(argv)
    points = sorted(read_classes(), key=lambda point: (point.name not in SMALLER, point.parameters))
    rows = read_grafts()
    names = [point.name for point in points if args.again or not is_complete(rows.get(point.name))]
    names = [] if args.report else fnmatch.filter(names, args.only)
    tasks = [(name, LOGS / f"{name}.log") for name in names]
    for name, facts in run_all(check, tasks, args, noun="network"):
        told = {"verdict": "failed", "reason": facts.get("error", ""), **facts}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows[name] = {key: str(told.get(key, "")) for key in COLUMNS} | {"model": name, "checked": now}
        rows[name]["seconds"] = f"{facts['seconds']:.0f}"
        write(points, rows)
        tqdm.write(f"{name}: {rows[name]['verdict']}", file=sys.stderr)
    write(points, rows)
    return 0


def is_complete(row: Mapping[str, str] | None) -> bool:
    """Tell whether a network has a verdict, and, where it grafts, an answer of timm's interface."""
    return row is not None and (row["verdict"] != "grafts" or bool(row["interface"]))


def write(points: Sequence[EntryPoint], rows: Rows) -> None:
    """Write the page and its rows."""
    classes = {point.name: f"{point.module}.{point.cls}" for point in points}
    write_text(ROWS, text_of({name: {**row, "class": classes.get(name, "")} for name, row in rows.items()}))
    write_text(PAGE, page(classes, rows))


def page(classes: Mapping[str, str], rows: Rows) -> str:
    """Write the share of the classes that graft, and a row with the reason for each."""
    verdicts = Counter(row["verdict"] for name, row in rows.items() if name in classes)
    counts = verdicts.most_common()
    if missing := len(classes) - verdicts.total():
        counts.append(("not run yet", missing))
    cells = (
        (
            f"{name} ({row['settings']})" if row.get("settings") else name,
            *(classes.get(name, ""), row["image"], row["verdict"], row.get("interface", "")),
            WHY.get(name, row["reason"])[:400] if row["verdict"] != "grafts" else "",
        )
        for name, row in sorted(rows.items(), key=lambda item: (item[1]["verdict"], item[0]))
    )
    shares = [(name, f"{count} of {len(classes)}") for name, count in counts]
    return fill("grafts/page.md.jinja", version=version("timm"), keep=KEEP, verdicts=shares, networks=cells)


if __name__ == "__main__":
    sys.exit(main())
