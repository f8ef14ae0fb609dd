"""Arms of the table of prices run, and begin with the same images and the same wide network."""

from __future__ import annotations

import pytest
import torch
from helpers.benchmarks.prices import TINY, a_bench
from helpers.benchmarks.results import EXAMPLE, residual_net

import fxprune
from benchmarks.prices.__main__ import TABLE
from benchmarks.prices.bench import PriceBench
from benchmarks.prices.importance import mean_absolute, taylor
from benchmarks.prices.methods import ARMS, FREE, METHODS, ONE, run
from benchmarks.prices.settings import PriceRow
from benchmarks.results.bench import ArmTask
from benchmarks.results.command import DOCS
from benchmarks.results.journal import ArmJournal, row_of
from benchmarks.results.settings import ARMS as FIRST_ARMS
from benchmarks.results.settings import Arm, Settings

BARE = ["l1 none", "taylor none", "activation none"]
TRAINED = ["l1 none + 1 epoch", "csgd even", "lasso", "scratch", "torch-pruning", "wide"]
FOLDED = [
    "fold rows none",
    "fold activations readers",
    "fold outputs statistics",
    "l1 readers",
    "taylor statistics",
    "csgd outputs",
    "csgd activations loose",
    "csgd activations taught",
    "fold activations readers + 1 epoch",
    "fold activations readers + C taught",
]


def run_arm(name, folder):
    if name == "torch-pruning":
        pytest.importorskip("torch_pruning")
    facts, arm = {}, Arm(name, "1" if name == "wide" else "1/2")
    run(ArmTask(arm, 0, TINY, folder), lambda **told: facts.update(told))
    return row_of(arm, 0, TINY, facts, PriceRow)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder of what the arms share, the wide network of seed 0 above all."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", [*BARE, *TRAINED, *FOLDED])
def test_arms_run(name, cache):
    row = run_arm(name, cache)
    assert 0.0 <= row.top1 <= 1.0 and 0.0 <= row.agreement <= 1.0 and row.loss > 0 and row.cpu_seconds > 0
    wide = Arm(name, "1") in ARMS
    assert (row.parameters > 4000) == wide and (row.macs > 40_000) == wide  # 5,000 and 45,000, or a quarter
    if METHODS[name].price == FREE:
        assert row.top1 == row.trimmed and row.before is not None
    if name.startswith("csgd") and "loose" not in name:
        assert row.changed == 0 and row.error64 < 1e-12  # float64: sums of a few hundred terms


def test_the_arms_of_a_seed_share_images_and_the_wide_network(tmp_path, monkeypatch):
    run_arm("wide", tmp_path)
    monkeypatch.setattr(PriceBench, "fresh", lambda *_: pytest.fail("trained again"))
    first, again = run_arm("l1 none", tmp_path), run_arm("l1 none", tmp_path)
    assert first.top1 == again.top1 and first.before == a_bench(tmp_path).wide_score().top1
    one, same, other = (a_bench(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert len(one.data.train.images) == 512 and len(one.data.test.images) == 360
    assert torch.equal(torch.cat(one.images), one.data.train.images[:96]) and len(one.images) == 2
    assert torch.equal(one.data.train.images, same.data.train.images)
    assert not torch.equal(one.data.train.images, other.data.train.images)


def test_what_arms_share_takes_no_time_of_theirs(tmp_path):
    bench = a_bench(tmp_path)
    bench.wide()
    assert bench.spent == []
    bench.fresh(0.5, 1.0)
    assert len(bench.spent) == 1


def test_taylor_is_the_slope_of_the_loss_along_the_columns():
    net, images, labels = residual_net().double(), torch.randn(4, 1, 8, 8).double(), torch.tensor([1, 2, 3, 4])
    coupling = fxprune.couple(net, EXAMPLE.double())
    found = taylor(coupling, net, [(images, labels)])

    def lost(name, channel, by):
        with torch.no_grad():
            for axis in coupling.groups[name].readers:
                net.get_parameter(axis.parameter).movedim(axis.dim, 0)[axis.positions[channel]] *= by
            value = torch.nn.functional.cross_entropy(net(images), labels)
            for axis in coupling.groups[name].readers:
                net.get_parameter(axis.parameter).movedim(axis.dim, 0)[axis.positions[channel]] /= by
        return value

    for name, channel in (("conv1.weight", 3), ("stage2.0.conv1.weight", 5)):
        slope = (lost(name, channel, 1 + 1e-5) - lost(name, channel, 1 - 1e-5)) / 2e-5
        # central differences of step 1e-5 in float64
        assert found[name][channel] == pytest.approx(slope.item() ** 2, rel=1e-4)


def test_a_channel_without_a_map_counts_nothing():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    net.append(torch.nn.Linear(4, 2)).eval()
    with torch.no_grad():
        net[0].bias[2] = -100.0
    coupling = fxprune.couple(net, torch.empty(2, 1, 8, 8, device="meta"))
    found = mean_absolute(coupling, net, [torch.randn(3, 1, 8, 8)])["0.weight"]
    assert found[2] == 0.0 and found.sum() == pytest.approx(4.0) and (found > 0).sum() == 3


def test_the_table_has_every_price_and_its_arms_are_in_order():
    assert ARMS[0].name == "wide" and len(set(ARMS)) == len(ARMS) == 2 * len(METHODS) - 1
    assert {METHODS[arm.name].price for arm in ARMS[1:19]} == {FREE} and METHODS[ARMS[19].name].price == ONE
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert TABLE.settings.blocks == 1 and TABLE.settings.train_images == 12_000


def test_the_rows_of_the_first_table_stay_valid():
    assert ArmJournal(DOCS / "results.csv").missing(FIRST_ARMS, range(3), Settings()) == []
