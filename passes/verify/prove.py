"""Run both oracles on any network with random weights, without data and without training.

*Concentrate* checks the analysis: if the rows of a cluster are equal, the sum of its columns on one column must give
the same outputs as all columns.
*Narrow* checks the rewrite: the narrow network must compute what the snapped one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.analysis import couple
from fxprune.arguments.batches import admitted, graph_batches
from fxprune.arguments.inputs import Inputs, batch_of
from fxprune.common.progress import phase, steps
from fxprune.common.table import table
from fxprune.common.text import count
from fxprune.coupling import Coupling
from fxprune.errors import FxpruneError
from fxprune.passes.merge import captured_with, concentrate, snap
from fxprune.passes.planning import plan as make_plan
from fxprune.passes.planning import widths_for
from fxprune.passes.rewrite import merged_by
from fxprune.plans import Plan
from fxprune.pytorch.modules import float64_copy
from fxprune.pytorch.precision import to_float64
from fxprune.pytorch.torch_private import pytree

from .batches import batched_inputs, random_batch
from .compare import ExampleOutputs, Report, agreement, verify
from .localise import domains_of, first_node
from .randomise import randomised

BATCHES = (1, 3)  # at which the rewrite is tried, too


@dataclass(frozen=True, eq=False)
class Proof:
    """The verdict of both oracles; prints as a table.

    Attributes:
        passed: both oracles hold.
        concentrate: report on the analysis (tolerance 1e-12).
        narrow: report on the rewrite (tolerance 1e-9); None if the rewrite stopped with an error.
        plan: the clusters that were tried.
        change: relative change of the output by the snap; if it is zero, the proof shows nothing.
        culprits: groups that fail when they alone are merged.
        nodes: for each culprit, the first node that differs, with its source line.
        error: the message of the rewrite, if it stopped.
    """

    passed: bool
    concentrate: Report
    narrow: Report | None
    plan: Plan
    change: float
    culprits: tuple[str, ...]
    nodes: tuple[str, ...]
    error: str

    def __str__(self) -> str:
        before, after = (sum(width[i] for width in self.plan.widths.values()) for i in (0, 1))
        narrow = self.error or (f"{self.narrow.max_rel_error:.1e}" if self.narrow else "not run")
        rows = [
            (
                "concentrate (analysis)",
                f"{self.concentrate.max_rel_error:.1e}",
                "1e-12",
                _word(self.concentrate.passed),
            ),
            ("narrow (rewrite)", narrow, "1e-9", _word(self.narrow is not None and self.narrow.passed)),
        ]
        text = table(("oracle", "relative error", "bound", "verdict"), rows)
        text += f"\n\n{count(len(self.plan.widths), 'group')}, {count(before, 'channel')} merged into {after}; "
        text += f"merging moves the output by {self.change:.1e}"
        for name, node in zip(self.culprits, self.nodes, strict=True):
            text += f"\nculprit: group `{name}`, first at node {node}"
        return text + ("\nproved" if self.passed else "\nNOT proved")


def prove(
    model: nn.Module,
    example_inputs: Any,
    *,
    weights: str = "random",
    keep: float = 0.5,
    seed: int = 0,
    outputs: Sequence[str | int] | str | int | None = None,
) -> Proof:
    """Run both oracles in float64 on all prunable groups at once; name the culprit if one fails.

    Args:
        model: any module; not modified.
        example_inputs: tensor, tuple of arguments, or dict of arguments by name; axis 0 of tensors is the batch. They
            may be on the meta device.
        weights: ``random``: random weights and running statistics; ``given``: those of the model.
        keep: share of every group's channels to keep.
        seed: of weights, inputs and clusters.
        outputs: the outputs that count, see :func:`fxprune.couple`; None: all.

    Raises:
        CaptureError: the model cannot be traced.
        NothingToPruneError: no group to merge.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> fxprune.prove(net, images).passed
        True
    """
    subject = randomised(model, seed=seed) if weights == "random" else model
    # Scattered clusters show errors that runs of neighbours could hide; float64 from the start.
    subject = float64_copy(subject, "cpu").eval()
    example = batched_inputs(example_inputs)
    drawn = random_batch(example, max(2, batch_of(example)), seed=seed)
    inputs: Inputs = pytree.tree_map_only(torch.Tensor, lambda x: to_float64(x, "cpu"), drawn)
    phase("couple")
    plan = scattered(couple(subject, inputs, outputs=outputs), keep=keep, seed=seed)
    phase("prove", "the analysis, by concentrated columns, in float64")
    snapped = snap(subject, plan)
    given, reference = ExampleOutputs(subject, inputs), ExampleOutputs(snapped, inputs)
    reference.at([batch_of(inputs), *BATCHES])  # once for all comparisons
    change = agreement(given, reference, batches=(), outputs=outputs).max_rel_error
    # Nothing but the order of a sum differs: some 1e-15 per layer.
    concentrated = ExampleOutputs(concentrate(subject, plan), inputs)
    on_analysis = agreement(reference, concentrated, tolerance=1e-12, batches=(), outputs=outputs)
    phase("prove", "the rewrite, by the narrow network, in float64")
    on_rewrite, error = _try_narrow(reference, plan)
    passed = on_analysis.passed and on_rewrite is not None and on_rewrite.passed
    del snapped, reference, concentrated  # each of the wide networks takes twice the memory of the one given
    found = [] if passed else list(_culprits(subject, plan, inputs))
    return Proof(
        passed,
        on_analysis,
        on_rewrite,
        plan,
        change,
        tuple(name for name, _ in found),
        tuple(at for _, at in found),
        error,
    )


def scattered(coupling: Coupling, *, keep: float, seed: int) -> Plan:
    """Draw clusters at random: of one size in balanced groups, of any size in all others."""
    # Take the reachable widths nearest to the share, however far from it they are.
    even = make_plan(coupling, widths=widths_for(coupling, keep), method="even")
    draw = np.random.default_rng(seed)
    clusters = {}
    for name, cluster in even.clusters.items():
        count = int(cluster.max()) + 1
        if coupling.groups[name].balanced:
            clusters[name] = draw.permutation(cluster)
        else:
            any_size = np.concatenate([np.arange(count), draw.integers(count, size=len(cluster) - count)])
            clusters[name] = draw.permutation(any_size)
    return Plan(coupling, clusters, f"scattered, keep {keep:g}", seed)


def _try_narrow(snapped: ExampleOutputs, plan: Plan) -> tuple[Report | None, str]:
    try:
        narrow = merged_by(plan.of_copy(snapped.module), snapped.module)[0]
        sizes = admitted(BATCHES, graph_batches(narrow, snapped.inputs))
        return agreement(snapped, ExampleOutputs(narrow, snapped.inputs), tolerance=1e-9, batches=sizes), ""
    except FxpruneError as error:
        return None, str(error)


def _culprits(subject: nn.Module, plan: Plan, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Merge one domain at a time, and yield those that fail, with the first node that differs."""
    for names in steps(list(domains_of(plan)), "search for the culprit: group"):
        part = plan.restrict(names)
        snapped = snap(subject, part)
        reference = captured_with(plan.coupling, snapped)
        makers: tuple[tuple[float, Callable[[], nn.Module]], ...] = (
            (1e-12, lambda part=part: captured_with(plan.coupling, concentrate(subject, part))),  # type: ignore[misc]
            (1e-9, lambda part=part, snapped=snapped: merged_by(part.of_copy(snapped), snapped)[0]),  # type: ignore[misc]
        )
        for tolerance, make in makers:
            try:
                candidate = make()
            except FxpruneError as error:
                yield ", ".join(sorted(names)), str(error)
                break
            if verify(reference, candidate, inputs, tolerance=tolerance, batches=()).passed:
                continue
            node = first_node(reference, candidate, part, inputs, tolerance=tolerance)
            yield ", ".join(sorted(names)), node or "output"
            break


def _word(holds: bool) -> str:
    return "holds" if holds else "FAILS"
