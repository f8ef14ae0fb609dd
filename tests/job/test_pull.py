"""The law of the pull in a training: decoupled, or inside SGD's momentum; and the job that asks for it."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import Tiny, tiny_data

import fxprune
from fxprune.errors import OptionError
from fxprune.passes.csgd.law import coupled_curve
from fxprune.passes.job.prepare import prepare, pull_law
from fxprune.passes.job.training import Trainer
from fxprune.passes.latency import plan_to
from fxprune.passes.options.job import Centripetal, Job
from fxprune.passes.options.ranges import interval
from fxprune.passes.options.record import options_of
from fxprune.passes.options.training import TrainOptions
from fxprune.passes.report.metrics import read_metrics
from fxprune.passes.train.step import Step

SGD = TrainOptions()


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("shrink", [0.5, 1e-3])
def test_the_strength_leaves_what_was_asked_for(coupled, shrink):
    pull, lrs = pull_law(SGD, coupled=coupled), [0.05] * 300
    strength = pull.solve(lrs, shrink)
    left = coupled_curve(lrs, strength, pull.momentum)[-1] if coupled else (1 - 0.05 * strength) ** 300
    assert left == pytest.approx(shrink, rel=1e-6)  # the solvers' end


def test_momentum_makes_the_pull_ten_times_as_strong():
    decoupled, coupled = (pull_law(SGD, coupled=form).solve([0.01] * 2000, 0.1) for form in (False, True))
    assert coupled == pytest.approx(decoupled * (1 - 0.9), rel=0.02)  # first order, and the momentum builds up


def test_other_optimizers_are_refused_before_any_training(tmp_path):
    with pytest.raises(OptionError, match="AdamW would normalise"):
        fxprune.compress(Tiny(), tiny_data(), coupled=True, optimizer="adamw", output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_job_with_the_coupled_form(tmp_path):
    options = {"epochs": 1, "csgd_epochs": 40, "weight_decay": 0.0, "warmup_epochs": 0, "scheduler": "constant"}
    options["cluster"] = "rows"  # alike, so that their mean is of their size
    done = fxprune.compress(
        Tiny(), tiny_data(), coupled=True, strength=0.3, csgd_lr=0.02, output=tmp_path, progress=False, **options
    )
    records = [record for record in read_metrics(tmp_path) if record["phase"] == "csgd"]
    first, last = records[0], records[-1]
    assert last["deviation_largest"] == pytest.approx(done.deviation, rel=1e-9)  # the same number
    assert last["deviation_predicted"] < 0.5 * first["deviation_largest"]
    # the size of the weights, in which deviations are measured, changes while training
    assert last["deviation_largest"] == pytest.approx(last["deviation_predicted"], rel=0.3)


@pytest.mark.parametrize(("optimizer", "coupled"), [("momentum", False), ("adamw", False), ("momentum", True)])
@pytest.mark.parametrize("bad", [{0}, {2, 3, 7, 24}, {59}])
def test_the_steps_after_one_that_overflowed_make_up_for_it(monkeypatch, bad, optimizer, coupled):
    taken, gradients = [], Step.gradients

    def overflowing(self, batches):
        loss = gradients(self, batches)
        if len(taken) in bad:
            self._model.first.weight.grad.fill_(float("inf"))
        taken.append(1)
        return loss

    monkeypatch.setattr(Step, "gradients", overflowing)
    # so few steps end far from where a merge is free
    for record in (Job, Centripetal):
        options = options_of(record)
        monkeypatch.setitem(options, "deviation", options["deviation"]._replace(range=interval(gt=0, le=1)))
    asked = 0.3 if coupled else 0.01  # momentum takes its time
    job = Job(
        model=Tiny(), data=tiny_data(), deviation=asked, coupled=coupled, optimizer=optimizer, amp="float16",
        csgd_epochs=20, csgd_lr=1e-5, weight_decay=0.1, scheduler="constant", warmup_epochs=0, progress=False,
        cluster="rows",
    )  # fmt: skip
    network, data = prepare(job, torch.device("cpu"))
    plan = plan_to(job, fxprune.couple(network.model, network.example))
    seen = []

    class Journal:
        def csgd(self, _, hook, *, stage):
            # small steps: the unit, the size of the means, hardly changes
            assert hook.deviation().largest == pytest.approx(hook.predicted(), rel=0.03)
            seen.append(hook.strength)

    done = Trainer.of(job, data, torch.device("cpu"), journal=Journal()).train_csgd(network.model, plan)
    assert len(taken) == 60
    if bad == {59}:  # the last one: nothing can make up for it
        assert done.largest > 1.02 * asked and len(set(seen)) == 1
    else:
        assert done.largest == pytest.approx(asked, rel=0.01)  # as above, since the last of these steps
        assert seen[-1] > seen[0]
