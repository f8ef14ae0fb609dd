"""Verify: the narrow network computes what the wide one computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, batch_of, run_on, tensors_of
from fxprune.arguments.outputs import as_outputs, counts, place_of
from fxprune.common.number_checks import check_numbers
from fxprune.common.table import table
from fxprune.equivalence import unchanged
from fxprune.errors import kind_and_line
from fxprune.plan_file import meta_of, outputs_of
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.precision import to_float64
from fxprune.pytorch.torch_private import pytree

from .batches import batched_inputs, random_batch, repeat_to
from .float64 import KeepFloat64, float64_reader
from .outputs import named_outputs, relative_error
from .tensors import differing, tensor_errors


@dataclass(frozen=True)
class Report:
    """The agreement of two networks, output by output; prints as a sentence and a table.

    Attributes:
        passed: every output of every batch agrees.
        max_rel_error: the largest of ``errors``; inf where the two cannot be compared.
        tolerance: the bound on ``max_rel_error``.
        errors: path of an output -> its largest relative error over all batches; ``tensor NAME`` for one that differs.
        first_differing: path of the first output, or tensor, that disagrees; None if all agree.
        reason: why they disagree; empty if they agree.
        notes: what weakens the proof: a reference that is constant, or that does not run at a batch size itself.
    """

    passed: bool
    max_rel_error: float
    tolerance: float
    errors: Mapping[str, float]
    first_differing: str | None
    reason: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "agree" if self.passed else "disagree"
        head = f"the networks {verdict}: relative error {self.max_rel_error:.2g}, tolerance {self.tolerance:.2g}"
        lines = [head, *([self.reason] if self.reason else []), *(f"note: {note}" for note in self.notes)]
        if self.errors:
            lines += ["", table(("output", "relative error"), self.errors.items(), right="relative error")]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Finding:
    """The result for one output of one batch: an error, a failure, or a note."""

    path: str = "output"
    error: float | None = None
    failure: str = ""
    note: str = ""


_Outcome = dict[str, Tensor] | Exception
_ZEROS = "integers on the meta device are taken for zeros: if they are tokens, all are equal, which may hide an error"


def verify(
    reference: nn.Module,
    candidate: nn.Module,
    example_inputs: Any,
    *,
    tolerance: float = 1e-9,
    batches: Sequence[int] = (1, 3),
    outputs: Sequence[str | int] | str | int | None = None,
) -> Report:
    """Check max |a - b| / max |a| <= tolerance for every output, in eval mode and float64.

    Both networks run as float64 copies, one after the other, at every batch size; neither is changed. Casts to a lower
    precision inside them are skipped (:mod:`~fxprune.passes.verify.float64`). A disagreement gives a report, never an
    exception.

    If the candidate holds the plan that made it (``narrow.meta``), its tensors are also compared with the merged
    tensors of the reference: channels that are dead on these inputs hide a change from every output.

    Args:
        reference: the correct network, for example the snapped wide one.
        candidate: the network to check; it may live on another device.
        example_inputs: tensor [N, ...], tuple of arguments, or dict of arguments by name; axis 0 of tensors is the
            batch. Tensors on the meta device are replaced by random numbers, and integers there by zeros.
        tolerance: bound on the relative error. Sums of a million float64 terms keep 1e-12; a wrong coupling moves an
            output by 1e-3 and more. 1e-9 lies between the two.
        batches: further batch sizes, made by repeating the example; a candidate with a fixed batch size fails.
        outputs: those to compare, see :func:`fxprune.couple`; None: those that the candidate's plan keeps.

    Raises:
        OptionError: the example inputs hold no tensors with one common batch size.
        ModelError: a weight on the meta device has no numbers.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> plan = fxprune.plan(fxprune.couple(net, images), keep=0.5)
        >>> snapped = fxprune.snap(net, plan)
        >>> fxprune.verify(snapped, fxprune.narrow(snapped, plan), images, tolerance=1e-5).passed  # float32 sums
        True
    """
    options: Any = {"tolerance": tolerance, "batches": batches, "outputs": outputs}
    report = compare_outputs(reference, candidate, example_inputs, **options)
    more = _report([*_compare_tensors(reference, candidate, tolerance)], tolerance)
    first = more if report.passed else report
    return replace(
        report,
        passed=report.passed and more.passed,
        max_rel_error=max(report.max_rel_error, more.max_rel_error),
        errors={**report.errors, **more.errors},
        first_differing=first.first_differing,
        reason=first.reason,
    )


def compare_outputs(
    reference: nn.Module,
    candidate: nn.Module,
    example_inputs: Any,
    *,
    tolerance: float,
    batches: Sequence[int],
    outputs: Sequence[str | int] | str | int | None = None,
) -> Report:
    """Compare outputs as :func:`verify` does, not tensors: these were just made."""
    for network in (reference, candidate):
        check_numbers(named_tensors(network))
    inputs = batched_inputs(example_inputs)
    unknown = [x for x in tensors_of(inputs) if x.is_meta]
    notes = [_ZEROS] if any(not x.is_floating_point() for x in unknown) else []
    if unknown:
        inputs = random_batch(inputs, batch_of(inputs), seed=0)
    answers = ExampleOutputs(reference, inputs), ExampleOutputs(candidate, inputs)
    report = agreement(*answers, tolerance=tolerance, batches=batches, outputs=outputs)
    return replace(report, notes=tuple(dict.fromkeys((*notes, *report.notes))))


class ExampleOutputs:
    """The outputs of a network for an example and its repetitions.

    Attributes:
        module: the network.
        inputs: tensors with numbers; axis 0 is the batch.
    """

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        self.module = module
        self.inputs = inputs
        self._known: dict[int, _Outcome] = {}

    def at(self, sizes: Sequence[int]) -> dict[int, _Outcome]:
        """Return the outputs, or the error, of calls at batch sizes in this order.

        What a network keeps from one call to the next is as it is in any other network that is called so.
        """
        if list(self._known)[: len(sizes)] != list(sizes):
            self._known = _run(self.module, {size: repeat_to(self.inputs, size) for size in sizes})
        return {size: self._known[size] for size in sizes}


def agreement(
    reference: ExampleOutputs,
    candidate: ExampleOutputs,
    *,
    tolerance: float = 1e-9,
    batches: Sequence[int] = (1, 3),
    outputs: Sequence[str | int] | str | int | None = None,
) -> Report:
    """Compare the answers of two networks, as :func:`compare_outputs` does."""
    first = batch_of(reference.inputs)
    sizes = list(dict.fromkeys([first, *batches]))
    wanted, got = reference.at(sizes), candidate.at(sizes)
    if isinstance(refusal := wanted[first], Exception):
        why = f"the reference itself does not run in float64 on the example inputs: {kind_and_line(refusal)}"
        return _report([_Finding(failure=why)], tolerance)
    counted = as_outputs(outputs) or outputs_of(candidate.module)
    pairs = {size: (_counted(wanted[size], counted), _counted(got[size], counted)) for size in sizes}
    findings = [finding for size, (a, b) in pairs.items() for finding in _judge(size, a, b, tolerance)]
    return _report(findings, tolerance)


def _compare_tensors(reference: nn.Module, candidate: nn.Module, tolerance: float) -> Iterator[_Finding]:
    plan = meta_of(candidate).get("plan")
    errors = tensor_errors(reference, candidate, plan) if isinstance(plan, Plan) else None
    if errors is None:
        return
    for name, error in differing(errors, tolerance, candidate).items():
        why = f"`{name}` is not what the plan makes of the reference's weights"
        yield _Finding(f"tensor {name}", error, f"{why}: it differs by {error:.3g} of its largest number")


@torch.no_grad()
def _run(module: nn.Module, trials: Mapping[int, Inputs]) -> dict[int, _Outcome]:
    """Return the outputs at every batch size, on the CPU; the float64 copy is freed at the end."""
    double = float64_reader(module)
    device = next((x.device for x in (*double.parameters(), *double.buffers())), torch.device("cpu"))
    outcomes: dict[int, _Outcome] = {}
    for size, inputs in trials.items():
        try:
            given = pytree.tree_map_only(Tensor, lambda x: to_float64(x, device), inputs)
            with unchanged(module), KeepFloat64():  # type: ignore[no-untyped-call]
                outputs = named_outputs(run_on(double, given))
            outcomes[size] = {path: output.cpu() for path, output in outputs.items()}
        except Exception as error:  # a network may raise any exception
            outcomes[size] = error.with_traceback(None)  # a traceback would keep the activations alive
    return outcomes


def _counted(outcome: _Outcome, outputs: Sequence[str] | None) -> _Outcome:
    """Leave out the outputs that do not count."""
    if isinstance(outcome, Exception):
        return outcome
    return {path: output for path, output in outcome.items() if counts(place_of(path), outputs)}


def _judge(size: int, wanted: _Outcome, got: _Outcome, tolerance: float) -> Iterator[_Finding]:
    if isinstance(wanted, Exception):
        yield _Finding(note=f"the reference itself refuses a batch of {size}: {kind_and_line(wanted)}")
    elif isinstance(got, Exception):
        yield _Finding(failure=f"the candidate fails at a batch of {size}: {kind_and_line(got)}")
    elif not wanted or wanted.keys() != got.keys():
        odd = next(iter([*(wanted.keys() ^ got.keys())]), "output")
        yield _Finding(odd, failure=f"the reference returns {_list(wanted)}, the candidate {_list(got)}")
    else:
        for path, a in wanted.items():
            yield _compare(path, size, a, got[path], tolerance)


def _compare(path: str, size: int, a: Tensor, b: Tensor, tolerance: float) -> _Finding:
    error = relative_error(a, b)
    where = f"{path} at a batch of {size}"
    if error <= tolerance:
        flat = a.numel() > 1 and bool((a == a.flatten()[0]).all())
        note = f"{path} is {a.flatten()[0]:.3g} everywhere in the reference, which proves nothing" if flat else ""
        return _Finding(path, error, note=note)
    if a.shape != b.shape:
        return _Finding(path, error, f"{where} has shape {list(b.shape)} instead of {list(a.shape)}")
    nans = ", ".join(f"{int(x.isnan().sum())} NaN in the {name}" for name, x in (("reference", a), ("candidate", b)))
    if a.isnan().any() or b.isnan().any():
        return _Finding(path, error, f"{where} is not a number: {nans}")
    return _Finding(path, error, f"{where} differs by {error:.3g} of its largest value, above {tolerance:.3g}")


def _report(findings: list[_Finding], tolerance: float) -> Report:
    errors: dict[str, float] = {}
    for finding in findings:
        if finding.error is not None:
            errors[finding.path] = max(errors.get(finding.path, 0.0), finding.error)
    failed = next((finding for finding in findings if finding.failure), None)
    incomparable = any(finding.failure and finding.error is None for finding in findings)
    return Report(
        passed=failed is None,
        max_rel_error=math.inf if incomparable else max(errors.values(), default=0.0),
        tolerance=tolerance,
        errors=errors,
        first_differing=failed.path if failed else None,
        reason=failed.failure if failed else "",
        notes=tuple(dict.fromkeys(finding.note for finding in findings if finding.note)),
    )


def _list(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{path} {list(x.shape)}" for path, x in outputs.items()) or "no tensor"
