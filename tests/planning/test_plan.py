"""Plans: which channels merge, how many stay, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.couplings.cases import normed, plain, square
from helpers.couplings.tower import after, tower

import fxprune
from fxprune.costs import cost
from fxprune.errors import NothingToPruneError, OptionError, PlanError
from fxprune.passes.planning.kmeans import balanced_kmeans, kmeans
from fxprune.passes.planning.plan import plan
from fxprune.passes.planning.widths import widths_for

METHODS = ["kmeans", "even", "imbalanced"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [plain, normed, square], ids=lambda make: make.__name__)
def test_half_of_every_group_stays(make, method):
    case = make()
    result = plan(case.coupling, method=method)
    assert all(width == (before + 1) // 2 for before, width in result.widths.values())
    assert result == plan(case.coupling, 0.5, method=method)
    assert result.method == f"{method}, keep 0.5"
    for cluster in result.clusters.values():
        firsts = np.unique(cluster, return_index=True)[1]
        assert (np.diff(firsts) > 0).all()  # numbered by first channel
        if make is normed:
            assert len(set(np.bincount(cluster))) == 1


@pytest.mark.parametrize(
    ("method", "domain", "expected"),
    [
        ("even", -1, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),
        ("imbalanced", -1, [0, 1, 2, 3, 3, 3, 3, 3, 3, 3]),
        ("even", 0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ("imbalanced", 0, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ],
)
def test_clusters_of_ten_channels(method, domain, expected):
    model, coupling = tower(3, 10, 2, domain=domain)
    result = plan(coupling, 0.4, method=method)
    assert result.clusters["layers.0.weight"].tolist() == expected
    assert model is coupling.model()


def test_kmeans_finds_the_channels_that_are_alike_in_all_producers():
    case = plain()
    labels = np.array([0, 1, 2, 0, 3, 1, 2, 3])
    with torch.no_grad():
        # Convolution rows 0 and 3 are alike, up to noise; only the batch norm, of far smaller scale, tells them apart.
        case.model.conv1.weight.copy_(1e4 * torch.randn(4, 3, 3, 3)[labels % 3] + torch.randn(8, 3, 3, 3))
        case.model.bn1.weight.copy_(1e-4 * torch.tensor([1.0, 1.0, 1.0, 1.0, -9.0, 1.0, 1.0, -9.0]))
        case.model.conv1.bias.zero_()
        case.model.bn1.bias.fill_(7.0)
    result = plan(case.coupling, widths={"conv1.weight": 4})
    assert result.clusters["conv1.weight"].tolist() == labels.tolist()


def test_kmeans_sees_every_occurrence_of_a_channel():
    model, coupling = tower(3, 4, 2, occurrences=2)
    with torch.no_grad():  # rows 2i and 2i + 1 belong to channel i: the first rows are all equal
        model.layers[0].weight.fill_(1.0)
        model.layers[0].weight[[1, 5]] = 5.0
    assert plan(coupling).clusters["layers.0.weight"].tolist() == [0, 1, 0, 1]


def test_features_by_the_thousand_are_projected():
    model, coupling = tower(3000, 8, 2)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.randn(4, 3000).repeat(2, 1))
    assert plan(coupling).clusters["layers.0.weight"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_seed_makes_the_plan():
    _model, coupling = tower(16, 64, 64, 8)
    assert plan(coupling, seed=3) == plan(coupling, seed=3)
    assert plan(coupling, seed=3) != plan(coupling, seed=4)


@pytest.mark.parametrize("clusters", range(1, 9))
@pytest.mark.parametrize("points", ["random", "two places", "one place"])
def test_kmeans_gives_exactly_the_clusters_asked_for(points, clusters):
    x = {"random": np.random.default_rng(0).normal(size=(8, 3)), "one place": np.ones((8, 1))}.get(points)
    x = np.repeat([[0.0], [1.0]], 4, axis=0) if x is None else x
    labels = kmeans(x, clusters, 0)
    assert sorted(set(labels)) == list(range(clusters))
    if points == "two places" and clusters > 1:
        assert not set(labels[:4]) & set(labels[4:])
    if 8 % clusters == 0:
        assert np.bincount(balanced_kmeans(x, clusters, 0)).tolist() == [8 // clusters] * clusters


def test_balanced_kmeans_is_no_worse_than_any_cut_into_pairs():
    x = np.random.default_rng(1).normal(size=(6, 2))

    def spread(labels):
        return sum(((x[labels == k] - x[labels == k].mean(0)) ** 2).sum() for k in set(labels))

    def pairs(left):
        if not left:
            yield []
        for j in left[1:]:
            for rest in pairs([i for i in left[1:] if i != j]):
                yield [(left[0], j), *rest]

    best = min(
        spread(np.array([[i in pair for pair in cut].index(True) for i in range(6)])) for cut in pairs([*range(6)])
    )
    found = min(spread(balanced_kmeans(x, 3, seed)) for seed in range(5))
    assert found == pytest.approx(best, rel=1e-12)


# widths before, domain, occurrences, keep, round_to -> widths after
KEEP = [
    ((10,), -1, 1, 0.5, 1, [5]),
    ((7,), -1, 1, 0.5, 1, [4]),
    ((7,), -1, 1, 0.1, 1, [1]),
    ((7,), -1, 1, 1.0, 1, [7]),
    ((64, 20), -1, 1, 0.3, 8, [16, 8]),
    ((64, 12), -1, 1, 0.1, 8, [8, 8]),
    ((6, 16), -1, 1, 0.5, 8, [6, 8]),  # fewer than a block would save nothing
    ((20, 12), 0, 1, 0.5, 8, [10, 6]),
    ((20, 12), 0, 1, 0.3, 8, [5, 3]),
    ((8,), -1, 4, 0.3, 8, [2]),
    ((12, 8), 0, 1, 0.5, 1, [6, 4]),
    ((12, 8), 0, 1, 0.3, 1, [3, 2]),
    ((12, 8), 0, 1, 0.2, 1, [3, 2]),
    ((12, 18), 0, 1, 0.4, 1, [4, 6]),
    ((48,), 0, 1, 0.5, 8, [24]),
    ((24,), 0, 1, 0.45, 8, [8]),
    ((24,), 0, 1, 0.45, 1, [12]),
]


@pytest.mark.parametrize(("widths", "domain", "occurrences", "keep", "round_to", "expected"), KEEP)
def test_widths(widths, domain, occurrences, keep, round_to, expected):
    _model, coupling = tower(3, *widths, 2, domain=domain, occurrences=occurrences)
    assert list(widths_for(coupling, keep, round_to).values()) == expected
    odd = sum(width * occurrences % round_to > 0 for width in expected)
    with pytest.warns(fxprune.WidthWarning, match=f"the layers of {odd} group") if odd else nullcontext():
        assert after(plan(coupling, keep, round_to=round_to, method="even")) == expected


@pytest.mark.parametrize(
    ("widths", "domain", "keep", "nearest"),
    [((7,), -1, 0.01, "0.1429"), ((12, 8), 0, 0.01, "0.25"), ((7, 8), 0, 0.5, "1"), ((10, 10), -1, 0.97, "1")],
)
def test_a_share_that_no_group_can_have_is_refused(widths, domain, keep, nearest):
    _model, coupling = tower(3, *widths, 2, domain=domain)
    with pytest.raises(OptionError, match=rf"`keep` {keep:g} is out of reach: .* the nearest is {nearest}\."):
        plan(coupling, keep, method="even")


@pytest.mark.parametrize(
    ("budget", "share", "domain"),
    [
        *((budget, share, -1) for budget in ("macs", "params") for share in (0.9, 0.5, 0.25, 0.1)),
        *((budget, share, 0) for budget in ("macs", "params") for share in (0.25, 0.1)),
    ],
)
def test_budget_is_met_or_the_nearest_reachable_one(budget, share, domain):
    _model, coupling = tower(16, 48, 96, 48, 8, domain=domain)
    result = plan(coupling, **{budget: share}, method="even")
    reached = getattr(cost(result), budget) / getattr(cost(coupling), budget)
    if domain == -1:
        assert reached == pytest.approx(share, rel=0.01)  # the promise
        assert result.method == f"even, {budget} {share:g}, reached {reached:.4f}"
    else:
        every = [plan(coupling, 1 / m, method="even") for m in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)]
        costs = [getattr(cost(other), budget) / getattr(cost(coupling), budget) for other in every]
        assert reached == min(costs, key=lambda value: abs(value - share))
        assert result.method == f"even, {budget} {share:g}, nearest reachable {reached:.4f}"


@pytest.mark.parametrize(
    ("budget", "share", "domain", "nearest"),
    [
        ("params", 0.001, -1, "0.4375"),
        ("macs", 0.001, -1, "0.4375"),
        ("params", 0.5, 0, "0.2778"),
        ("macs", 0.9, 0, "1"),
    ],
)
def test_a_budget_out_of_reach_is_refused(budget, share, domain, nearest):
    _model, coupling = tower(16, 8, 8, 8) if domain else tower(16, 48, 96, 48, 8, domain=0)
    says = f"share of {share:g} of the network's `{budget}` is out of reach: .* is {nearest}"
    with pytest.raises(OptionError, match=says):
        plan(coupling, **{budget: share}, round_to=1 if domain == 0 else 4, method="even")


def test_groups_change_one_by_one_between_two_keeps():
    _model, coupling = tower(1, 2, 2, 2, 1)
    assert after(plan(coupling, params=9 / 12, method="even")) == [2, 2, 1]


def test_two_groups_change_at_once_where_one_does_not_meet_the_budget():
    _model, coupling = tower(1, 2, 2, 2, 1)
    assert after(plan(coupling, params=8 / 12, method="even")) == [2, 1, 2]  # next to [2, 2, 1], which has 9 of 12


@pytest.mark.parametrize(
    ("params", "expected"), [(0.3, [38, 31, 38]), (0.5, [63, 31, 63]), (0.6, [39, 62, 38]), (0.7, [45, 62, 45])]
)
def test_a_group_that_can_only_halve_leaves_the_rest_to_the_others_evenly(params, expected):
    _model, coupling = tower(1, 64, 62, 64, 1, domain=[-1, 0, -1])
    assert after(plan(coupling, params=params, method="even")) == expected


def test_given_widths_leave_other_groups_alone_save_those_of_the_domain():
    _model, free = tower(3, 10, 6, 2)
    assert after(plan(free, widths={"layers.1.weight": 4})) == [10, 4]
    assert after(plan(free, widths={})) == [10, 6]
    _model, bound = tower(3, 12, 18, 2, domain=0)
    assert after(plan(bound, widths={"layers.1.weight": 6})) == [4, 6]


FREE, BOUND = (10, 6), (12, 18)
WRONG = {
    "unknown group": (
        FREE,
        {"widths": {"layer.1.weight": 4}},
        PlanError,
        "no group `layer.1.weight`.*`layers.1.weight`",
    ),
    "no channels": (
        FREE,
        {"widths": {"layers.1.weight": 0}},
        PlanError,
        "`layers.1.weight` can have 1 to 6 channels, not 0",
    ),
    "too many": (FREE, {"widths": {"layers.1.weight": 7}}, PlanError, "can have 1 to 6 channels, not 7"),
    "unbalanced": (BOUND, {"widths": {"layers.1.weight": 4}}, PlanError, "it can have 3, 6, 9, 18 channels, not 4"),
    "two sizes": (
        BOUND,
        {"widths": {"layers.0.weight": 6, "layers.1.weight": 6}},
        PlanError,
        "common size, unlike `layers.0.weight` 12 -> 6, `layers.1.weight` 18 -> 6",
    ),
    "keep nothing": (FREE, {"keep": 0.0}, OptionError, "`keep` is a share above 0 and up to 1, not 0"),
    "keep more": (FREE, {"keep": 1.5}, OptionError, "`keep` is a share"),
    "keep nan": (FREE, {"keep": float("nan")}, OptionError, "`keep` is a share"),
    "no macs": (FREE, {"macs": 0.0}, OptionError, "`macs` is a share"),
    "more params": (FREE, {"params": 2.0}, OptionError, "`params` is a share"),
    "two wishes": (FREE, {"keep": 0.5, "macs": 0.5}, OptionError, "`keep` and `macs` exclude each other"),
    "round to 0": (FREE, {"round_to": 0}, OptionError, "`round_to` must be 1 or more, not 0"),
    "method": (FREE, {"method": "kmean"}, OptionError, "`method` must be .*, not kmean. Did you mean `kmeans`"),
}


@pytest.mark.parametrize("share", [Fraction(1, 2), np.float32(0.5), np.float64(0.5)], ids=repr)
@pytest.mark.parametrize("option", ["keep", "macs", "params"])
def test_a_share_is_any_real_number(option, share):
    _model, coupling = tower(3, *FREE, 2)
    assert plan(coupling, **{option: share}) == plan(coupling, **{option: 0.5})


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(case):
    widths, options, error, message = WRONG[case]
    _model, coupling = tower(3, *widths, 2, domain=0 if widths is BOUND else -1)
    with pytest.raises(error, match=message):
        plan(coupling, **options)


@pytest.mark.parametrize("wish", [{}, {"macs": 0.5}, {"params": 0.5}, {"widths": {"layers.0.weight": 1}}])
def test_nothing_to_prune(wish):
    _model, coupling = tower(3, 2, frozen=["a graph output", "a softmax", "a graph output"])
    with pytest.raises(NothingToPruneError, match="Frozen: 2 x a graph output; 1 x a softmax"):
        plan(coupling, **wish)


def test_the_public_function_makes_the_same_plan():
    _model, coupling = tower(16, 64, 64, 8)
    assert fxprune.plan(coupling, keep=0.5, seed=3) == plan(coupling, keep=0.5, seed=3)
