"""Measure the error of narrow networks in every format, in units of the wide one's rounding.

The unit: the channels of the wide network are permuted within their groups, which only changes the order of sums. Each
network has its own process, the smallest first; an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.coverage.classes import read
from benchmarks.coverage.journal import digest, sources
from benchmarks.process import Limits, run_each
from benchmarks.trust_page import markdown_table, paragraph, write_section

WORK = ROOT / "build" / "rounding"
JOURNAL = WORK / "results.jsonl"
GIB = 2**30
FORMATS = ("float32", "channels_last", "bfloat16", "float16", "compile", "onnxruntime", "onnxruntime_plain")
PERMUTATIONS = 3

TEXT = """
`python -m benchmarks.rounding` takes the smallest network of each class of timm with random weights, at a small image,
makes it narrow to half its width in clusters drawn at random, and compares it with the snapped wide network, which
computes the same but for rounding. The unit is what the wide network's own rounding comes to: the largest difference,
over {permutations} draws, between it and itself with its channels in another order within their groups. onnxruntime,
with and without its optimiser, and `torch.compile` are in units of eager float32. In bfloat16 and float16 the order of
sums moves little, since they run in float32; columns that were added up are rounded as one number there, where the wide
network rounds each: some units are what that comes to. {done} of {classes} classes were
measured; {left}
"""


@dataclass(frozen=True)
class Task:
    """A network, and whether to compile it, which takes a minute."""

    model: str
    compile: bool


def work(task: Task, record: Callable[..., None]) -> None:
    """Record, format by format, the unit and the error of the narrow network."""
    import torch

    import fxprune
    from benchmarks.coverage.network import small_form
    from fxprune.errors import ExportError
    from fxprune.passes.verify import random_batch, randomised, scattered

    torch.set_num_threads(1)
    form = small_form(task.model)
    model = randomised(form.build())
    inputs: Any = random_batch(form.example(model), 4, seed=0)
    coupling = fxprune.couple(model, inputs)
    plan = scattered(coupling, keep=0.5, seed=0)
    wide = settled(fxprune.snap(model, plan).eval(), inputs)
    narrow = fxprune.narrow(wide, plan).eval()
    others = [permuted(wide, coupling, seed) for seed in range(PERMUTATIONS)]
    record(parameters=form.parameters, image=form.image)
    unit = difference(wide, others, inputs)
    for name in FORMATS[:4]:
        made = [in_format(each, inputs, name) for each in (wide, narrow, *others)]
        given = made[0][1]
        unit_here = max(difference(made[0][0], [each for each, _ in made[2:]], given), 0.0)
        record(**{name: (unit_here, difference(made[0][0], [made[1][0]], given))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "narrow.onnx"
        try:
            fxprune.export_onnx(narrow, inputs, path, batches=(2,))
        except ExportError as error:
            record(onnx_refused=str(error)[:200])
        else:
            for name, optimise in (("onnxruntime", True), ("onnxruntime_plain", False)):
                record(**{name: (unit, difference(wide, [runner(path, optimise)], inputs))})
    if task.compile:
        torch._dynamo.reset()
        record(compile=(unit, difference(wide, [torch.compile(narrow)], inputs)))


def settled(model: Any, inputs: Any) -> Any:
    """Give the network the running statistics of one batch.

    With others, signals vanish and outputs are constant.
    """
    import torch
    from torch.nn.modules.batchnorm import _NormBase

    from fxprune.common.inputs import run_on

    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        run_on(model, inputs)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return model.eval()


def permuted(model: Any, coupling: Any, seed: int) -> Any:
    """Permute the channels of every group in all tensors of a network."""
    import copy

    import numpy as np
    import torch

    from fxprune.common.modules import named_tensors

    made, draw = copy.deepcopy(model), np.random.default_rng(seed)
    tensors = dict(named_tensors(made))
    for group in coupling.groups.values():
        order = draw.permutation(group.width)
        for axis in (*group.tied, *group.readers):
            tensor, places = tensors[axis.parameter], axis.positions
            index = np.arange(tensor.shape[axis.dim])
            index[places] = places[order]
            with torch.no_grad():
                tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(index)))
    return made


def in_format(model: Any, inputs: Any, name: str) -> tuple[Any, Any]:
    """Copy a network to another format, with inputs for it."""
    import copy

    import torch
    from torch.utils import _pytree as pytree

    made = copy.deepcopy(model)
    if name == "channels_last":
        return made.to(memory_format=torch.channels_last), pytree.tree_map(
            lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, inputs
        )
    kind = getattr(torch, "float32" if name == "float32" else name)
    return made.to(kind), pytree.tree_map(lambda x: x.to(kind) if x.is_floating_point() else x, inputs)


def difference(reference: Any, others: Sequence[Any], inputs: Any) -> float:
    """Return the largest relative error of all outputs of some networks; inf if not finite."""
    import torch

    from fxprune.common.inputs import run_on
    from fxprune.passes.verify import named_outputs, relative_error

    with torch.no_grad():
        wanted = named_outputs(run_on(reference, inputs)).values()
        every = [named_outputs(run_on(other, inputs)).values() for other in others]
    if not all(x.isfinite().all() for x in wanted):
        return math.inf
    return max(relative_error(a, b) for got in every for a, b in zip(wanted, got, strict=True))


def runner(path: Path, optimise: bool) -> Any:
    """Load the file as a network."""
    from fxprune.passes.onnx import onnx_runner

    return onnx_runner(path, threads=1, optimise=optimise)


def known() -> dict[str, dict[str, Any]]:
    """Map each model to its newest result."""
    lines = JOURNAL.read_text(encoding="utf-8").splitlines() if JOURNAL.exists() else []
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        found[row["model"]] = row
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure networks and write the page, which also lists those that cannot be measured."""
    args = _parser().parse_args(argv)
    points = sorted(read(), key=lambda point: point.parameters)
    names = [point.name for point in points][: args.classes]
    sha, before = digest(sources()), known()
    todo = [] if args.report else [name for name in names if args.again or name not in before]
    limits = Limits(args.seconds, int(args.memory * GIB))
    tasks = [(Task(name, args.compile), WORK / "logs" / f"{name}.log") for name in todo]
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(tasks), unit="network", disable=None) as bar, open(JOURNAL, "a", encoding="utf-8") as journal:
        for task, facts in run_each(work, tasks, limits):
            journal.write(json.dumps({"model": task.model, "digest": sha, **facts}) + "\n")
            journal.flush()
            bar.update()
    rows = known()
    write_section("Rounding", page(rows, len(points)))
    print(f"{len(rows)} of {len(points)} classes measured; see docs/reports/trust.md")
    return 0


def page(rows: Mapping[str, Mapping[str, Any]], classes: int) -> str:
    """Write the table by format, and the networks whose error is far above the unit."""
    measured = {name: row for name, row in rows.items() if "float32" in row}
    failed = {name: row.get("error", "") for name, row in rows.items() if name not in measured}
    table = []
    for name in FORMATS:
        ratios = sorted(ratio for _, ratio in _ratios(measured, name))
        refused = sum(1 for row in measured.values() if name in row and not math.isfinite(row[name][0]))
        errors = [row[name][1] for row in measured.values() if name in row and math.isfinite(row[name][1])]
        if ratios:
            spread = (
                f"{statistics.median(ratios):.2f}",
                f"{ratios[int(0.95 * (len(ratios) - 1))]:.2f}",
                f"{ratios[-1]:.1f}",
            )
            table.append((name, len(ratios), refused, *spread, f"{max(errors):.1e}"))
    head = ("format", "networks", "not finite when wide", "median", "95 %", "largest", "largest relative error")
    far = [
        f"`{model}` in {name}: {ratio:.1f}"
        for name in FORMATS
        for model, ratio in _ratios(measured, name)
        if ratio > 10
    ]
    left = "the others were not reached." if len(rows) < classes else "none is left."
    told = [
        paragraph(TEXT.format(permutations=PERMUTATIONS, done=len(measured), classes=classes, left=left)),
        markdown_table(head, table),
        "More than ten units: " + (", ".join(far) if far else "none") + ".",
    ]
    told += [f"Not measured: {', '.join(f'`{n}` ({e[:80]})' for n, e in failed.items())}."] if failed else []
    return "\n\n".join(told)


def _ratios(rows: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[tuple[str, float]]:
    for model, row in rows.items():
        if name in row:
            unit, error = row[name]
            if math.isfinite(unit) and unit > 0:
                yield model, error / unit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rounding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, default=10**6, metavar="N", help="the smallest N only (default: all)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too: a minute for each network")
    parser.add_argument("--seconds", type=float, default=900.0, help="time for one network (default: 900)")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help="memory for one network (default: 8)")
    parser.add_argument("--again", action="store_true", help="also networks that were measured")
    parser.add_argument("--report", action="store_true", help="measure nothing, only write the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
