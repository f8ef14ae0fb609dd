"""Check a folder of results from its files alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import fx, nn

from fxprune.arguments.batches import admitted, graph_batches
from fxprune.arguments.inputs import Inputs
from fxprune.common.progress import phase
from fxprune.common.table import table
from fxprune.common.text import count
from fxprune.errors import FxpruneError, PlanError, kind_and_line
from fxprune.passes.merge import expand
from fxprune.passes.onnx import check_onnx
from fxprune.passes.rewrite import merged_by
from fxprune.passes.store import (
    NETWORK_FILES,
    ONNX,
    SNAPPED,
    SUMMARY,
    WIDE,
    build_wide,
    check_kinds,
    check_probe,
    kinds_of,
    load,
    read_manifest,
    read_network,
    read_tensors,
)
from fxprune.passes.train import evaluate
from fxprune.passes.verify import differing, tensor_errors, verify, verify_rewrite
from fxprune.plan_file import plan_for
from fxprune.plans import Plan
from fxprune.pytorch.modules import map_tensors, named_tensors

from .results import read_result
from .run_folder import BY_NO_NAME, Run, WideNetwork, open_run


@dataclass(frozen=True)
class Finding:
    """The result of one comparison.

    Attributes:
        what: the two sides.
        rel_error: the relative error between them; None if unknown.
        bound: the largest error allowed.
        reason: why they disagree; empty if they agree.
        skipped: why they were not compared; empty if they were.
    """

    what: str
    rel_error: float | None
    bound: float
    reason: str
    skipped: str = ""


@dataclass(frozen=True)
class FolderReport:
    """The results of all comparisons; prints as a table."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Tell whether everything agrees."""
        return not any(finding.reason for finding in self.findings)

    def __str__(self) -> str:
        rows = [
            (
                finding.what,
                "" if finding.rel_error is None else f"{finding.rel_error:.1e}",
                f"{finding.bound:.0e}" if finding.bound else "0",
                "FAILS" if finding.reason else "not compared" if finding.skipped else "holds",
            )
            for finding in self.findings
        ]
        text = table(("compared", "relative error", "bound", "verdict"), rows, right="bound")
        notes = [(finding.what, finding.reason or finding.skipped) for finding in self.findings]
        return "\n".join([text, *(f"\n{what}: {why}" for what, why in notes if why)])


def verify_folder(folder: str | os.PathLike[str], *, data: str | None = None) -> FolderReport:
    """Check a folder that ``fxprune.save`` or a job wrote, without its history.

    Every file must be the one that was written, and the stored network must answer its probe; then, where they are at
    hand: the members of a cluster must be equal in the wide network, the rewrite exact, the stored network its result,
    and the ONNX file must compute the same.

    Args:
        folder: the folder.
        data: name of a data set; its test images must be classified as correctly as the results say.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        DataError: the data are not available.
    """
    path = Path(folder)
    phase("read", f"{path}, and ask the stored network")
    manifest = read_manifest(path)
    # Every file, also those not used here.
    manifest.check(path, dict.fromkeys([*NETWORK_FILES, *manifest.files]))
    files = open_run(path)
    error, bound = check_probe(files.narrow, path)
    reason = _not_finite(files.narrow) or ("" if error <= bound else "it returns something else than when it was saved")
    findings = [Finding("stored network with its stored answer", error, bound, reason)]
    if files.wide is None:
        findings.append(Finding("stored network with the wide one", None, 0.0, "", skipped=files.absent))
    else:
        phase("verify", "the wide network, merged anew, in float64")
        findings += _on_wide(files.wide, files, path)
    if files.narrow.meta["earlier"]:
        phase("verify", "against the first network, in float64")
        findings.append(_on_first(files, path))
    if ONNX in manifest.files:
        phase("verify", "the ONNX file, in onnxruntime")
        findings.append(_on_onnx(files.narrow, path / ONNX, files.example))
    else:
        findings.append(Finding(_ONNX, None, 1e-4, "", skipped=f"there is no {ONNX} in the folder"))
    if SUMMARY in manifest.files:
        findings.append(_on_summary(files.narrow, path))
    if data is not None:
        findings.append(verify_data(path, data))
    return FolderReport(tuple(findings))


def verify_data(folder: str | os.PathLike[str], data: str) -> Finding:
    """Compare the correctly classified test images with what the results say.

    Raises:
        CheckpointError: the folder is missing, unfinished or damaged.
        DataError: the data are not available.
    """
    phase("classify", f"the test images of {data}")
    return _on_data(load(folder), Path(folder), data)


def _not_finite(network: nn.Module) -> str:
    """Name parameters that are not finite: the probe need not read every row of a table."""
    wrong = [f"`{name}`" for name, x in network.named_parameters() if not bool(x.isfinite().all())]
    return f"{', '.join(wrong[:5])} hold numbers that are not finite" if wrong else ""


def _on_wide(wide: WideNetwork, files: Run, path: Path) -> list[Finding]:
    if (path / WIDE).exists():
        snapped, before = (kinds_of(read_tensors(path / name)) for name in (SNAPPED, WIDE))
        check_kinds(snapped, before, str(path / WIDE))
    sizes = admitted((1, 3), graph_batches(files.narrow, files.example))
    # The same graph with the same numbers may not differ at all.
    again, changes = merged_by(wide.plan, wide.snapped)
    stored = verify(again, files.narrow, files.example, tolerance=0.0, batches=sizes)
    change = max(changes.values(), default=0.0)
    equal = Finding("rows of a cluster, in the wide network", change, 0.0, "they are not equal" if change else "")
    rewrite, _, _ = verify_rewrite(wide.snapped, wide.plan, files.example, batches=sizes)
    return [
        equal,
        _on_tensors(wide, files.narrow, again),
        Finding("narrow with wide network, in float64", rewrite.max_rel_error, 1e-9, rewrite.reason),
        Finding("stored narrow network with the one made anew", stored.max_rel_error, 0.0, stored.reason),
    ]


def _on_first(files: Run, path: Path) -> Finding:
    """Hold a network that was narrowed several times against itself in the first class."""
    what, bound = "stored network with the first one, by the composed plan", 1e-9  # as above
    first, plan = build_wide(path, files.narrow, first=True), files.narrow.meta["composed"]
    absorbed = files.narrow.meta["absorbed"]
    skipped = (
        BY_NO_NAME if first is None
        else "its groups are not those of the networks between" if plan is None
        else "weights may hold factors of narrowed heads" if absorbed is None
        else ""
    )  # fmt: skip
    if skipped or first is None:
        return Finding(what, None, 0.0, "", skipped=skipped)
    try:
        composed = plan_for(first.eval(), plan)
        if others := _of_other_sizes(first, files.narrow, composed):
            name, has_channels = others[0]
            if has_channels:
                return Finding(what, None, bound, f"`{name}` has sizes that the composed plan does not give it")
            return Finding(what, None, 0.0, "", skipped=f"`{name}` has sizes that no plan gives it, as of new classes")
        # Weights that hold factors of narrowed heads fit into the graph that such weights get, and no wide one.
        other = (
            _refilled(merged_by(composed, first)[0], files.narrow)
            if absorbed
            else expand(first, files.narrow, composed)
        )
    except PlanError as error:
        return Finding(what, None, bound, str(error))
    sizes = admitted((1, 3), graph_batches(files.narrow, files.example))
    report = verify(other, files.narrow, files.example, tolerance=bound, batches=sizes)
    return Finding(what, report.max_rel_error, bound, report.reason)


def _of_other_sizes(first: nn.Module, narrow: nn.Module, plan: Plan) -> list[tuple[str, bool]]:
    """List tensors that differ from the first network's in an axis that the plan does not cut.

    Those of which the axis has channels that a plan can cut come first, and are marked.
    """
    cut, here = {(each.parameter, each.dim) for each in plan.partitions()}, dict(named_tensors(narrow))
    groups = plan.coupling.groups.values()
    known = {(axis.parameter, axis.dim) for group in groups for axis in (*group.tied, *group.readers)}
    found = [
        (name, (name, dim) in known)
        for name, tensor in named_tensors(first)
        if name in here
        for dim, (a, b) in enumerate(zip(tensor.shape, here[name].shape, strict=False))
        if a != b and (name, dim) not in cut
    ]
    return sorted(found, key=lambda each: not each[1])


def _refilled(network: nn.Module, narrow: nn.Module) -> nn.Module:
    """Give a network the tensors of another one."""
    tensors = dict(named_tensors(narrow))
    return map_tensors(network, lambda name, tensor: tensors.get(name, tensor).detach())


def _on_tensors(wide: WideNetwork, narrow: nn.Module, made: nn.Module) -> Finding:
    what = "stored narrow tensors with the merge of the wide ones"
    # Sums are taken in float64 and rounded once, 6e-8 in float32; another device may round the other way.
    bound = 1e-6
    errors = tensor_errors(wide.snapped, narrow, wide.plan, made=made)
    if errors is None:
        return Finding(what, None, bound, "they are tensors of different networks")
    wrong = differing(errors, bound, narrow)
    named = ", ".join(f"`{name}` by {error:.2g}" for name, error in [*wrong.items()][:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    reason = f"{named}{more} of the largest number" if wrong else ""
    return Finding(what, max(errors.values(), default=0.0), bound, reason)


_ONNX = "onnxruntime with PyTorch, in float32"


def _on_onnx(network: nn.Module, file: Path, example: Inputs) -> Finding:
    try:
        # Two float32 kernels that sum in different orders differ by 1e-6; a wrong weight moves the output by 1e-2.
        agreement = check_onnx(network, file, example, tolerance=1e-4)
    except FxpruneError as error:
        return Finding(_ONNX, None, 1e-4, str(error))
    except Exception as error:  # onnxruntime may raise any exception
        return Finding(_ONNX, None, 1e-4, f"it does not run: {kind_and_line(error)}")
    return Finding(_ONNX, agreement.max_rel_error, 1e-4, "")


def _on_summary(network: fx.GraphModule, path: Path) -> Finding:
    """Hold the widths and the weights that the results tell of against those of the network."""
    true, result = network.meta["plan"].widths, read_result(path)
    reported = {name: list(widths) for name, widths in result.widths.items()}
    wrong = [name for name in true if reported.get(name) != list(true[name])]
    reason = f"{SUMMARY} says that `{wrong[0]}` has {reported.get(wrong[0])} channels before and after" if wrong else ""
    if not wrong and result.weights not in ("", read_network(path)["weights"]):
        reason = f"{SUMMARY} tells of a network with other weights"
    return Finding(f"widths and weights with {SUMMARY}", None, 0.0, reason)


def _on_data(network: fx.GraphModule, path: Path, name: str) -> Finding:
    from fxprune.models_zoo.data import load_data

    preprocessing = network.meta["preprocessing"]
    channels, size, _ = (None, None, None) if preprocessing is None else preprocessing.input_size
    data = load_data(name, image_size=size, in_chans=channels)
    found = evaluate(network, data.test)
    what = f"top-1 on {name}: {found.top1:.2%} of {count(found.count, 'test image')}"
    if not (path / SUMMARY).exists():
        return Finding(what, None, 0.0, "", skipped="the folder does not say how many it was")
    row = read_result(path).stages[-1]
    same = row.correct == found.correct and row.count == found.count
    return Finding(what, None, 0.0, "" if same else f"{SUMMARY} says {row.correct} of {row.count} are right")
