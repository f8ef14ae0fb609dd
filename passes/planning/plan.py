"""Make a plan from an analysis and a share of channels, a budget, or widths."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np

from fxprune.common.choices import check_choice
from fxprune.common.number_checks import check_finite
from fxprune.common.progress import steps
from fxprune.coupling import Coupling, Group
from fxprune.errors import OptionError
from fxprune.latencies import LatencyTable
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors
from fxprune.selection import select

from .features import activations, features, inner_products
from .gram_clusters import Labels, Points, balanced_clusters, pairwise_clusters
from .kmeans import balanced_kmeans, kmeans, needs_products_only, weighted_kmeans
from .multiples import warn_of_odd_widths
from .widths import Budget, as_share, check_near, widths_for, widths_given, widths_in_time, widths_within


def plan(
    coupling: Coupling,
    keep: float | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    widths: Mapping[str, int] | None = None,
    method: str = "kmeans",
    round_to: int = 1,
    seed: int = 0,
    only: Sequence[str] | None = None,
    freeze: Sequence[str] | None = None,
    internal_only: bool = False,
    cluster: str = "rows",
    batches: Iterable[Any] | None = None,
    runtime: str | None = None,
    batch: int | None = None,
    latency_table: LatencyTable | str | os.PathLike[str] | Callable[..., LatencyTable] | None = None,
) -> Plan:
    """Divide the channels of each group into clusters, one for each channel that stays.

    Args:
        coupling: the analysis.
        keep: share of the channels to keep in every group, above 0, up to 1; 0.5 if no budget or widths are given.
        macs: instead: share of the network's multiply-accumulates to end at.
        params: instead: share of the network's parameters to end at.
        latency: instead: share of the network's time to end at, as measured here with PyTorch's present number of
            threads, or read from ``latency_table``.
        widths: instead: group name -> channels to keep; other groups stay as they are, except those under the same
            normalisation, which follow.
        method: ``kmeans``: channels that are alike, as ``cluster`` says; ``even``: runs of consecutive channels;
            ``imbalanced``: one cluster holds all channels that are removed (Ding et al. 2019, section 3), for
            balanced groups as ``even``.
        round_to: make widths multiples of this; a group that can have none is narrowed only by whole blocks of it.
        seed: of the search; the same seed gives the same plan.
        only: patterns; groups that match none of them keep their widths (:func:`fxprune.selection.select`).
        freeze: patterns; groups that match one of them keep their widths.
        internal_only: only groups inside a residual branch become narrower.
        cluster: by which features channels are alike: ``rows``: the numbers in the rows of all tied parameters;
            ``activations``: what their readers read, on ``batches``; ``outputs``: the same, where a channel counts as
            much as the columns that read it.
        batches: inputs as the network takes them, such as tensors [N, C, H, W], without labels; a few hundred images
            are enough.
        runtime: of ``latency``: ``onnxruntime`` (None), ``eager`` or ``compiled``.
        batch: of ``latency``: samples at once; None: 1, or that of the table.
        latency_table: of ``latency``: times of this network (:func:`fxprune.latency_table`), a file with them, or a
            function that measures them; None: they are measured. With a table, the plan depends on nothing else.

    Raises:
        NothingToPruneError: the coupling has no groups.
        OptionError: an option outside its range, or two that exclude each other, or a pattern that matches nothing.
        PlanError: widths that a group cannot have.
        ModelError: a weight of a group, or an activation, holds a NaN or an infinity.
        DataError: ``batches`` that are not inputs of this network.

    Warns:
        WidthWarning: layers end at widths that are no multiples of ``round_to``.

    Examples:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> images = torch.randn(2, 3, 16, 16)
        >>> coupling = fxprune.couple(net, images)
        >>> fxprune.plan(coupling, macs=0.5).widths
        {'0.weight': (8, 4)}
    """
    check_choice("method", method, METHODS)
    if not isinstance(coupling, Coupling):
        raise OptionError(f"a plan is made of a coupling, `fxprune.couple(model, inputs)`, not of {_kind(coupling)}.")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise OptionError(f"`seed` must be a whole number from 0 to {2**32 - 1}, not {seed!r}.")
    _check_cluster(cluster, method, batches)
    _check_weights(coupling)
    chosen = only is not None or freeze is not None or internal_only
    if chosen and widths is not None:
        raise OptionError(
            "`widths` says which groups become narrower: `only`, `freeze` and `internal_only` do not go with it."
        )
    selected = select(coupling, only=only, freeze=freeze, internal_only=internal_only) if chosen else None
    wishes = {"keep": keep, "macs": macs, "params": params, "latency": latency, "widths": widths}
    asked = {name: wish for name, wish in wishes.items() if wish is not None} or {"keep": 0.5}
    if len(asked) > 1:
        raise OptionError(f"{' and '.join(f'`{name}`' for name in asked)} exclude each other; give one of them.")
    timing = {"runtime": runtime, "batch": batch, "latency_table": latency_table}
    for name, value in timing.items():
        if value is not None and latency is None:
            raise OptionError(f"`{name}` is for a budget of time: give `latency`.")
    if latency is not None:
        latency = as_share("latency", latency)
        which = {"only": only, "freeze": freeze, "internal_only": internal_only}
        table = _times(coupling, latency, round_to, selected, timing, which)
        after, how = widths_in_time(coupling, table, latency, round_to, selected)
    else:
        after, how = _widths(coupling, asked, round_to, selected)
    warn_of_odd_widths(coupling, after, round_to)
    if selected is not None:
        how += f", {len(selected)} of {len(coupling.groups)} groups"
    narrower = [group for name, group in coupling.groups.items() if after.get(name, group.width) < group.width]
    seen = {}
    if cluster != "rows" and narrower:
        assert batches is not None
        seen = activations(coupling, batches, weighted=cluster == "outputs")
        unseen = sum(group.name not in seen for group in narrower)
        how = f"on {cluster}{f' ({unseen} groups on rows)' if unseen else ''}, {how}"
    clusters = {}
    for group in steps(narrower, "clusters of group"):
        width = after[group.name]
        if group.name in seen:
            labels = _by_activations(group, *seen[group.name], width, seed)
        else:
            labels = METHODS[method](coupling, group, width, seed)
        clusters[group.name] = _numbered(labels)
    return Plan(coupling, clusters, f"{method}, {how}", seed)


def _kind(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _check_cluster(cluster: str, method: str, batches: Iterable[Any] | None) -> None:
    check_choice("cluster", cluster, CLUSTER)
    if cluster != "rows" and method != "kmeans":
        raise OptionError(f"`cluster={cluster}` is for the method kmeans; `{method}` looks at no features.")
    if cluster != "rows" and batches is None:
        raise OptionError(f"`cluster={cluster}` needs `batches` of images (no labels), or other inputs of the network.")


def _check_weights(coupling: Coupling) -> None:
    """Raise ModelError if a weight or constant of a group is not finite."""
    weights = dict(named_tensors(coupling.network))
    groups = coupling.groups.values()
    names = dict.fromkeys(axis.parameter for group in groups for axis in (*group.tied, *group.readers))
    check_finite((name, weights[name]) for name in names if name in weights)


def _widths(
    coupling: Coupling, asked: Mapping[str, Any], round_to: int, selected: Set[str] | None
) -> tuple[dict[str, int], str]:
    """Return the widths for the one given wish, and a text that says what was reached."""
    ((wish, value),) = asked.items()
    if wish == "widths":
        return widths_given(coupling, value), "widths given"
    if wish == "keep":
        value = as_share("keep", value)
        after = widths_for(coupling, value, round_to, selected)
        check_near(coupling, value, after, round_to)
        return after, f"keep {value:g}"
    budget: Budget = "macs" if wish == "macs" else "params"
    return widths_within(coupling, budget, value, round_to, selected)


def _times(
    coupling: Coupling,
    goal: float,
    round_to: int,
    selected: Set[str] | None,
    timing: Mapping[str, Any],
    which: Mapping[str, Any],
) -> LatencyTable:
    """Measure the times, or take the given ones if they are for this network and choice."""
    given, how = timing["latency_table"], {"runtime": timing["runtime"], "batch": timing["batch"]}
    if given is None:
        raise OptionError("`latency` goes by measured times: give `latency_table`.")
    if callable(given):  # timing needs rooms above this one
        measured: LatencyTable = given(coupling, goal, round_to=round_to, **how, **which)
        return measured
    table = given if isinstance(given, LatencyTable) else LatencyTable.read(given)
    table.check(coupling, [*(coupling.groups if selected is None else selected)], round_to, **how)
    return table


def _by_activations(group: Group, points: Points, weights: Points, clusters: int, seed: int) -> Labels:
    if group.balanced:
        return balanced_kmeans(points, clusters, seed, weights)
    return weighted_kmeans(points, weights, clusters, seed)


def _by_kmeans(coupling: Coupling, group: Group, clusters: int, seed: int) -> Labels:
    if needs_products_only(group.width, clusters, balanced=group.balanced):
        pair = balanced_clusters if group.balanced else pairwise_clusters
        return pair(inner_products(coupling, group), clusters, seed)
    points = features(coupling, group, seed)
    return (balanced_kmeans if group.balanced else kmeans)(points, clusters, seed)


def _even(_: Coupling, group: Group, clusters: int, __: int) -> Labels:
    return np.arange(group.width) * clusters // group.width


def _imbalanced(coupling: Coupling, group: Group, clusters: int, seed: int) -> Labels:
    if group.balanced:
        return _even(coupling, group, clusters, seed)
    return np.minimum(np.arange(group.width), clusters - 1)


METHODS: dict[str, Callable[[Coupling, Group, int, int], Labels]] = {
    "kmeans": _by_kmeans,
    "even": _even,
    "imbalanced": _imbalanced,
}

# What channels are compared by.
CLUSTER = ("rows", "activations", "outputs")


def _numbered(labels: Labels) -> Labels:
    """Number the same clusters in the order of their first channels."""
    _, first, cluster = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[cluster].astype(np.int64)
