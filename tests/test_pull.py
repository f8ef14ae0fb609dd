"""The law of the pull in a training: decoupled, or inside SGD's momentum; and the job that asks for it."""

from __future__ import annotations

import pytest
from test_compress import Tiny, tiny_data

import fxprune
from fxprune.errors import OptionError
from fxprune.passes.metrics import read_metrics
from fxprune.passes.pull import pull_of
from fxprune.passes.train_options import TrainOptions

SGD = TrainOptions()


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("shrink", [0.5, 1e-3])
def test_the_strength_leaves_what_was_asked_for(coupled, shrink):
    pull, lrs = pull_of(SGD, coupled=coupled), [0.05] * 300
    assert pull.left(lrs, pull.solve(lrs, shrink)) == pytest.approx(shrink, rel=1e-6)  # the solvers' end
    assert pull.left([], 1.0) == 1.0


def test_momentum_makes_the_pull_ten_times_as_strong():
    decoupled, coupled = (pull_of(SGD, coupled=form).solve([0.01] * 2000, 0.1) for form in (False, True))
    assert coupled == pytest.approx(decoupled * (1 - 0.9), rel=0.02)  # first order, and the momentum builds up


def test_other_optimizers_are_refused_before_any_training(tmp_path):
    with pytest.raises(OptionError, match="AdamW would normalise"):
        fxprune.compress(Tiny(), tiny_data(), coupled=True, optimizer="adamw", output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_job_with_the_coupled_form(tmp_path):
    options = {"epochs": 1, "csgd_epochs": 40, "weight_decay": 0.0, "warmup_epochs": 0, "scheduler": "constant"}
    done = fxprune.compress(
        Tiny(), tiny_data(), coupled=True, strength=0.05, csgd_lr=0.02, output=tmp_path, progress=False, **options
    )
    records = [record for record in read_metrics(tmp_path) if record["phase"] == "csgd"]
    first, last = records[0], records[-1]
    assert last["deviation_largest"] == pytest.approx(done.deviation, rel=1e-9)  # the same number
    assert last["deviation_predicted"] < 0.5 * first["deviation_largest"]
    # the size of the weights, in which deviations are measured, changes while training
    assert last["deviation_largest"] == pytest.approx(last["deviation_predicted"], rel=0.3)
