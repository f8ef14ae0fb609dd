"""Write the page of figures: one table for each kind, with the goal of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import quantiles
from typing import Any

from benchmarks.tables import markdown_table
from benchmarks.trust_page import paragraph
from fxprune.common.versions import processor

Rows = Mapping[str, Mapping[str, Any]]

TEXT = """What fxprune costs, measured by `make benchmarks`: CPU seconds of one thread. Two calls that are compared take
turns in one process, and a ratio is the median over the pairs, since a busy machine slows both. Each figure has a
process of its own; random weights; half of the channels stay."""


def machine() -> str:
    """Describe the processor and the versions that a figure depends on."""
    return f"{processor()}; " + ", ".join(
        f"{name} {_version(name)}" for name in ("torch", "timm", "onnxruntime", "torch-pruning")
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def page(rows: Rows) -> str:
    """Write all that was measured so far, and what failed."""
    good = {name: row for name, row in rows.items() if "error" not in row}
    parts = [
        "# Benchmarks",
        paragraph(TEXT),
        "\n".join(f"- {each}" for each in sorted({f"{row['machine']}; {row['day']}" for row in good.values()})),
        *_hook(good),
        *_analysis(good),
        *_plans(good),
        *_narrow(good),
    ]
    failed = [f"`{name}`: {row['error'][:200]}" for name, row in rows.items() if "error" in row]
    parts += ["## Not measured", "\n".join(f"- {each}" for each in failed)] if failed else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _tabled(head: tuple[str, ...], lines: list[tuple[object, ...]], above: str = "") -> Sequence[str]:
    """Return a table with what stands above it; nothing, if it has no row."""
    return [each for each in (above, markdown_table(head, lines, numbers=True)) if each] if lines else []


def _against(goal: float | None, found: float) -> str:
    """Say whether a figure meets its goal, which is the most that it may be."""
    return "" if goal is None else f"{goal:g}, {'met' if found <= goal else 'not met'}"


def _of(rows: Rows, kind: str) -> dict[str, Mapping[str, Any]]:
    return {name.partition(" ")[2]: row for name, row in rows.items() if name.partition(" ")[0] == kind}


def _hook(rows: Rows) -> Sequence[str]:
    goals = {"resnet50 SGD": 0.25, "resnet50 AdamW": 0.0, "resnet56 SGD": 0.4, "vit_tiny_patch16_224 SGD": 0.25,
             "vit_tiny_patch16_224 AdamW": 0.1}  # fmt: skip
    lines: list[tuple[object, ...]] = []
    for name, row in _of(rows, "hook").items():
        network, optimizer, form = name.split()
        goal = _against(goals.get(f"{network} {optimizer}"), row["ratio"])
        lines.append((f"{network}, {optimizer}, {form}", f"{row['ratio']:+.2f}", goal, f"{row['other'] * 1e3:.1f}"))
    memory: list[tuple[object, ...]] = [
        (
            name.replace(" ", ", "),
            f"{row['resident']:.2f}",
            f"{row['peak']:.2f}",
            _against(2, max(row["resident"], row["peak"])),
        )
        for name, row in _of(rows, "memory").items()
    ]
    added = paragraph(
        "What the hook adds to `optimizer.step()`, as a share of the step alone; forward and backward pass, which take "
        "far longer, do not count."
    )
    steps: list[tuple[object, ...]] = []
    for name, row in _of(rows, "training").items():
        network, optimizer, batch = name.split()
        steps.append((f"{network}, {optimizer}, batch {batch}", f"{row['ratio']:.2f}", f"{row['other'] * 1e3:.0f}"))
    parts = [
        *_tabled(("network, optimizer, form", "added", "goal", "step alone, ms"), lines, added),
        *_tabled(
            ("network, optimizer", "with over without", "without, ms"),
            steps,
            "A whole step of training, forward and backward pass included, with C-SGD over the same step without it:",
        ),
        *_tabled(
            ("optimizer, form", "resident", "peak", "goal"),
            memory,
            "Memory that it adds to training ResNet-50, in copies of the parameters:",
        ),
    ]
    return ["## The hook", *parts] if parts else []


def _analysis(rows: Rows) -> Sequence[str]:
    found = _of(rows, "couple")
    ratios = sorted(row["ratio"] for row in found.values() if "ratio" in row)
    slowest = sorted(found, key=lambda name: -found[name]["one"])[:3]
    about = (
        "`couple`, which also compares the captured graph with the model, against graph and groups of Torch-Pruning, "
        "which compares nothing."
    )
    parts = [paragraph(about)] if found else []
    if len(ratios) > 1:
        low, middle, high = quantiles(ratios, n=4)
        longest = ", ".join(f"{name} {found[name]['one']:.1f} s" for name in slowest)
        parts.append(
            f"Median of {len(ratios)} networks **{middle:.2f} x** (quartiles {low:.2f} and {high:.2f}; goal "
            f"{_against(1, middle)}). Slowest: {longest} (goal {_against(3, found[slowest[0]]['one'])})."
        )
    lines: list[tuple[object, ...]] = [
        (name, f"{row['ratio']:.2f}" if "ratio" in row else "refused by it", f"{row['one']:.2f}")
        for name, row in sorted(found.items(), key=lambda item: item[1].get("ratio", 1e9))
    ]
    parts += _tabled(("network", "ratio", "couple, s"), lines)
    for row in _of(rows, "depth").values():
        parts.append(
            f"Exponent of the depth, 32 to 128 blocks on meta: {row['ratio']:.2f} "
            f"(goal {_against(1.05, row['ratio'])})."
        )
    for name, row in _of(rows, "giant").items():
        seconds, memory = _against(4, row["one"]), _against(1, row["peak"] * 2**30 / 1e9)
        parts.append(
            f"{name}, a billion parameters on meta: {row['one']:.1f} s (goal {seconds}) and {row['peak']:.2f} GiB "
            f"(goal in GB: {memory})."
        )
    return ["## The analysis", *parts] if parts else []


def _plans(rows: Rows) -> Sequence[str]:
    goals = {"resnet50": 2, "convnext_tiny": 5, "vit_base_patch16_224": 10}
    lines: list[tuple[object, ...]] = [
        (name, f"{row['one']:.1f}", _against(goals.get(name), row["one"])) for name, row in _of(rows, "plan").items()
    ]
    return _tabled(("network", "seconds", "goal"), lines, "## The plan\n\nBy k-means, in seconds:")


def _narrow(rows: Rows) -> Sequence[str]:
    lines: list[tuple[object, ...]] = []
    for name, row in _of(rows, "by-hand").items():
        network, runtime, batch = name.split()
        lines.append((f"{network}, {runtime}, batch {batch}", f"{row['ratio']:.2f}", f"{row['same']:.2f}"))
    head = "network", "narrow over by hand", "by hand over itself"
    about = "By hand: the network's own class and code, with narrow layers (`graft`)."
    parts = [*_tabled(head, lines, about)]
    parts += [
        f"Peak memory of `narrow` beside the model ({name}): {row['ratio']:.2f} of the parameters (goal "
        f"{_against(0.6, row['ratio'])})."
        for name, row in _of(rows, "narrow").items()
    ]
    parts += [
        f"`fxprune --help` takes {row['ratio']:.1f} times `python -c pass`, and imports no torch."
        for row in _of(rows, "command").values()
    ]
    return ["## The narrow network", *parts] if parts else []
