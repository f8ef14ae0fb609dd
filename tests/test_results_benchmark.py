"""Arms are trained alike, removal removes, what is done is not repeated, and verdicts follow from the numbers."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from benchmarks import results, results_run
from benchmarks.results_bench import Bench, Task
from benchmarks.results_claims import CLAIMS, Pair, difference
from benchmarks.results_clock import step_times
from benchmarks.results_fisher import fisher_curve, mean_squares
from benchmarks.results_journal import Journal, Row, row_of, to_csv
from benchmarks.results_remove import Lasso, remove, weakest
from benchmarks.results_report import LABELS, page
from benchmarks.results_run import run
from benchmarks.results_settings import ARMS, BUDGETED, Arm, Settings, digest
from benchmarks.results_squeeze import pacesetter
from benchmarks.results_train import fit, optimizer_for, rates_for, score
from fxprune.models_zoo.cifar_resnet import CifarResNet
from fxprune.models_zoo.data import load_data

TINY = Settings(data="digits", image_size=8, batch_size=256, width=0.25, wide_epochs=1.0, more_epochs=1.0)
WIDE, CSGD, SCRATCH = Arm("wide", "1"), Arm("csgd", "5/8"), Arm("scratch", "5/8")


def residual_net(seed=0):
    torch.manual_seed(seed)
    net = CifarResNet(1, in_chans=1, width=0.5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


EXAMPLE = torch.empty(2, 1, 8, 8, device="meta")


def masked(net, coupling, gone):
    """The wide network with the rows of these channels at zero: each of their maps is zero after its BatchNorm."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for name, out in gone.items():
            for axis in coupling.groups[name].tied:
                if "running" not in axis.parameter:
                    net.get_parameter(axis.parameter).movedim(axis.dim, 0)[axis.positions[out].ravel()] = 0.0
    return net


@pytest.mark.parametrize("keep", [0.5, 0.625])
def test_removal_is_the_wide_network_with_maps_at_zero(keep):
    net = residual_net().double()
    coupling = fxprune.couple(net, EXAMPLE.double())
    gone = weakest(coupling, keep)
    small, images = remove(net, coupling, gone), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    expected = masked(net, coupling, gone)(images)
    # float64 sums of a thousand terms
    torch.testing.assert_close(small(images), expected, rtol=1e-12, atol=1e-12)
    assert (net(images) - expected).abs().max() > 0.1
    assert small.get_parameter("stage3.0.conv1.weight").shape[0] == round(32 * keep)


def test_the_weakest_channels_go():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 3, 3))
    gone = weakest(fxprune.couple(net, EXAMPLE), 0.5)
    assert gone["0.weight"].tolist() == [1, 3]


def test_lasso_brings_rows_to_zero_and_no_others():
    net, data = residual_net().train(), load_data("digits", image_size=8, batch_size=64)
    coupling = fxprune.couple(net, EXAMPLE)
    gone = weakest(coupling, 0.5)
    optimizer, rates = optimizer_for(net, TINY, 0.02), [0.02] * 12
    with Lasso(net, coupling, gone, optimizer, rates) as lasso:
        before = lasso.left()
        for _ in rates:
            optimizer.zero_grad()
            net(next(iter(data.train))[0]).square().mean().mul(0.0).backward()  # the pull alone
            optimizer.step()
    assert before > 0.5 and lasso.left() == 0.0
    assert not masked(net, coupling, gone).conv1.weight.equal(torch.zeros_like(net.conv1.weight))
    images = torch.randn(2, 1, 8, 8)
    # float32: sums of a thousand terms in another order
    torch.testing.assert_close(remove(net, coupling, gone).eval()(images), net.eval()(images), rtol=1e-4, atol=1e-5)


def test_the_pacesetter_decides_for_its_group():
    net = residual_net()
    coupling = fxprune.couple(net, EXAMPLE)
    with torch.no_grad():  # channels i and i + 4 of the first layer are alike, those of the others are not
        net.conv1.weight[4:] = net.conv1.weight[:4]
    plan = pacesetter(coupling, 0.5, seed=0)
    stem = plan.clusters["conv1.weight"]
    assert stem[:4].tolist() == stem[4:].tolist() and sorted(set(stem)) == [0, 1, 2, 3]
    joint = fxprune.plan(coupling, 0.5)
    assert plan.widths == joint.widths and not np.array_equal(joint.clusters["conv1.weight"], stem)


def test_rates_rise_and_fall_to_nothing():
    rates = rates_for(replace(TINY, warmup=0.1), 0.5, 40)
    assert len(rates) == 40 and max(rates) == rates[4] == 0.5 and rates[0] == pytest.approx(0.1)
    assert 0 < rates[-1] < 0.002 and rates[4:] == sorted(rates[4:], reverse=True)


def test_a_part_of_an_epoch_is_a_part_of_its_steps(monkeypatch):
    from benchmarks import results_train

    data, net, seen = load_data("digits", image_size=8, batch_size=100), residual_net(), []
    monkeypatch.setattr(results_train, "take_step", lambda *args: seen.append(args[2]) or 0.0)
    fit(net, data, TINY, epochs=1.5, lr=0.1, seed=3)
    fit(net, data, TINY, epochs=0.5, lr=0.1, seed=3)
    assert len(data.train) == 14 and len(seen) == 21 + 7
    assert all(torch.equal(a, b) for a, b in zip(seen[:7], seen[21:], strict=True))


@pytest.mark.parametrize("arm", ["csgd", "l1", "lasso", "merged", "staged", "squeezed", "clock"])
def test_arms_run(arm, tmp_path, monkeypatch):
    facts = {}
    monkeypatch.setattr(results_run, "step_times", functools.partial(step_times, pairs=2))
    arm = Arm(arm, "1/2")
    run(Task(arm, 0, TINY, tmp_path), lambda **told: facts.update(told))
    row = row_of(arm, 0, TINY, facts)
    assert row.digest == digest(arm, TINY)
    if arm.name == "clock":
        assert row.sgd_ms > 0 and row.csgd_ms > 0
        return
    assert 0.0 <= row.top1 <= 1.0 and row.loss > 0 and 0.0 <= row.before <= 1.0 and 0.0 <= row.trimmed <= 1.0
    assert row.parameters < 6000 and row.macs < 50_000  # a quarter of 17,462 and of 160,160, and the ends
    if arm.name in ("csgd", "staged", "squeezed"):
        # float64: sums of a few hundred terms
        assert row.changed == 0 and row.error64 < 1e-12 and row.deviation < 1e-2


def test_the_arms_of_a_seed_share_the_wide_network(tmp_path, monkeypatch):
    run(Task(WIDE, 0, TINY, tmp_path), lambda **_: None)
    monkeypatch.setattr(Bench, "fresh", lambda *_: pytest.fail("trained again"))
    first, second = {}, {}
    run(Task(Arm("merged", "5/8"), 0, TINY, tmp_path), first.update)
    run(Task(Arm("merged", "5/8"), 0, TINY, tmp_path), second.update)
    assert {**first, "train_seconds": 0} == {**second, "train_seconds": 0}
    with pytest.raises(BaseException, match="trained again"):
        run(Task(Arm("merged", "5/8"), 1, TINY, tmp_path), first.update)


def a_row(arm, seed, settings=TINY, **facts):
    return row_of(arm, seed, settings, facts)


def test_rows_survive_the_file(tmp_path):
    rows = [
        a_row(CSGD, 0, top1=0.9, changed=0, deviation=1.25e-5, parameters=7),
        a_row(WIDE, 1, error='died, "loudly"\nin two lines'),
    ]
    journal = Journal(tmp_path / "results.csv")
    for row in rows:
        journal.add(row)
    assert Journal(tmp_path / "results.csv").rows == rows
    journal.add(a_row(CSGD, 0, top1=0.5))
    assert [row.top1 for row in Journal(tmp_path / "results.csv").rows] == [0.5, None]


def test_only_what_is_missing_runs_and_seeds_come_first(tmp_path):
    journal = Journal(tmp_path / "results.csv")
    journal.add(a_row(WIDE, 0, top1=0.9))
    journal.add(a_row(CSGD, 0, error="killed"))
    journal.add(a_row(CSGD, 1, replace(TINY, lr=0.1), top1=0.9))
    arms = (WIDE, CSGD)
    assert journal.missing(arms, range(1), TINY) == [(CSGD, 0)]
    assert journal.missing(arms, range(2), TINY) == [(CSGD, 0), (WIDE, 1), (CSGD, 1)]
    assert {arm: len(rows) for arm, rows in journal.current(arms, TINY).items()} == {WIDE: 1, CSGD: 0}


PAIR = Pair(CSGD, SCRATCH)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "if_equal"),
    [
        ([0.98, 0.97, 0.99], [0.93, 0.92, 0.94], "shown", "shown, and better"),
        ([0.93, 0.92, 0.94], [0.98, 0.97, 0.99], "contradicted", "contradicted"),
        ([0.95, 0.97, 0.96], [0.96, 0.96, 0.95], "not shown", "not contradicted: no difference beyond the spread"),
        ([0.951, 0.951, 0.951], [0.95, 0.95, 0.95], "not shown", "not contradicted: no difference beyond the spread"),
        ([0.98], [0.50], "no verdict yet", "no verdict yet"),
    ],
)
def test_verdicts_follow_from_the_spread(first, second, verdict, if_equal):
    found = {
        CSGD: [a_row(CSGD, seed, top1=value) for seed, value in enumerate(first)],
        SCRATCH: [a_row(SCRATCH, seed, top1=value) for seed, value in enumerate(second)],
    }
    gap = difference(PAIR, found, least=0.001)
    assert gap.seeds == len(first) and (gap.verdict(False), gap.verdict(True)) == (verdict, if_equal)


def test_the_interval_is_student_t_over_pairs():
    found = {
        CSGD: [a_row(CSGD, seed, top1=value) for seed, value in ((0, 0.92), (1, 0.93), (2, 0.97), (5, 0.1))],
        SCRATCH: [a_row(SCRATCH, seed, top1=0.9) for seed in (0, 1, 2)],
    }
    gap = difference(PAIR, found, least=0.001)
    spread = math.sqrt(((0.02 - 0.04) ** 2 + (0.03 - 0.04) ** 2 + (0.07 - 0.04) ** 2) / 2)
    assert gap.mean == pytest.approx(0.04) and gap.half == pytest.approx(4.302653 * spread / math.sqrt(3))


@pytest.mark.parametrize("name", BUDGETED)
def test_arms_at_a_share_of_the_macs_end_there(name, tmp_path):
    facts, whole = {}, 160_160
    run(Task(Arm(name, "3/10"), 0, TINY, tmp_path), lambda **told: facts.update(told))
    assert facts["macs"] == pytest.approx(0.3 * whole, rel=0.05)  # so narrow a network has few widths to choose from
    assert facts["changed"] == 0 and facts["error64"] < 1e-12 and 0.0 <= facts["top1"] <= 1.0


def test_the_fisher_information_is_that_of_every_image_and_every_label():
    net, images = residual_net().double(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    names, parameters = zip(*net.named_parameters(), strict=True)
    exact = dict.fromkeys(names, 0.0)
    for image in images:
        logs = net(image[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, parameters, retain_graph=True)
            for found, gradient in zip(names, gradients, strict=True):
                exact[found] += float((log.exp() * gradient.square().mean()).detach()) / len(images)
    squares = mean_squares(net, [images] * 600)
    assert squares == pytest.approx(exact, rel=0.3)  # 600 draws; one draw varies by some hundred per cent
    assert squares["conv1.weight"] == pytest.approx(exact["conv1.weight"], rel=0.3)
    coupling = fxprune.couple(net, EXAMPLE.double())
    group = coupling.groups["stage1.0.conv1.weight"]
    curve = fisher_curve(squares, coupling, group)
    twice = fisher_curve({name: 2.0 * f for name, f in squares.items()}, coupling, group)
    assert twice == pytest.approx(2.0 * curve, rel=1e-12)  # float64 rounding
    assert curve[-1] == 0.0 and (np.diff(curve) < 0).all()


CSGD_ARMS = ("csgd", "even", "imbalanced", "pacesetter", "staged", "finetuned", "squeezed", *BUDGETED)


def full_journal(path):
    journal = Journal(path)
    for seed in range(3):
        for number, arm in enumerate(ARMS):
            facts = {"sgd_ms": 100.0, "csgd_ms": 110.0} if arm.name == "clock" else {"top1": 0.9 + 0.001 * number}
            facts |= {"trimmed": 0.1} if arm.name == "merged" else {"changed": 0} if arm.name in CSGD_ARMS else {}
            if arm.name == "csgd":
                facts |= {"changed": 0, "changed_by_snap": 1, "deviation": 1e-5, "error64": 1e-15, "trimmed": 0.9}
            journal.add(a_row(arm, seed, **facts))
    return journal


def test_the_page_has_every_arm_and_every_claim(tmp_path):
    journal = full_journal(tmp_path / "results.csv")
    text = page(journal, ARMS, TINY)
    for claim in CLAIMS:
        assert f"### {claim.title}\n" in text and f"| {claim.title} | {claim.pairs[0].first.width} | " in text
    for arm in ARMS:
        assert arm.name == "clock" or f"| {LABELS[arm.name]} | {arm.width} | 3 |" in text
    assert "3 of them" in text and "W = 1 epochs" in text and "4-8-16 channels" in text
    assert "**Contradicted**, within 5 %: a step takes 1.100 ± 0.000 times" in text
    assert "**Shown**: in 51 networks the trim changed the class of 0 test images" in text
    journal.add(a_row(CSGD, 0, top1=0.9, changed=1))
    assert "**Contradicted**: in 51 networks" in page(journal, ARMS, TINY)
    journal.add(a_row(WIDE, 3, error="took too long"))
    assert "| wide 1 | 3 | took too long |" in page(journal, ARMS, TINY)


def test_a_run_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "WORK", tmp_path / "work")
    started = []

    def fake(work, tasks, limits, *, jobs, preload):
        for task, _ in tasks:
            started.append((str(task.arm), task.seed))
            if len(started) == 3:
                raise KeyboardInterrupt
            yield task, {"top1": 0.5, "loss": 1.0, "seconds": 1.0}

    monkeypatch.setattr(results, "run_each", fake)
    arguments = ["--quick", "--only", "*5/8", "--output", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        results.main(arguments)
    done, started[:] = started[:2], [None] * 3
    assert results.main(arguments) == 0
    assert len(started[3:]) == sum(arm.keep == "5/8" for arm in ARMS) - 2 and not set(done) & set(started[3:])
    assert len(Journal(tmp_path / "results.csv").rows) == sum(arm.keep == "5/8" for arm in ARMS)
    assert results.main([*arguments, "--seeds", "2", "--report"]) == 0
    assert "0 arms run" in capsys.readouterr().out
    assert results.main(["--only", "nothing"]) == 2


def test_a_finished_table_is_written_as_it_was_read():
    text = (results.DOCS / "results.csv").read_text()
    rows = Journal(results.DOCS / "results.csv").rows
    assert rows and to_csv(rows) == text and all(isinstance(row, Row) for row in rows)


def test_score_counts():
    data = load_data("digits", image_size=8)
    found = score(residual_net(), data)
    labels = torch.cat([labels for _, labels in data.test])
    assert found.top1 == float((found.classes == labels).double().mean())
    assert found.changed(replace(found, classes=(found.classes + 1) % 10)) == 360
