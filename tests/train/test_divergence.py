"""A training that came to numbers that are not finite tells what there is to go on from, and keeps its records."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import Tiny, planned, tiny_data
from helpers.networks.points import linear, points

import fxprune
from fxprune.errors import DivergedError, OptionError
from fxprune.passes.report.metrics import read_metrics
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.train.fit import train
from fxprune.passes.train.loop import Training


@pytest.fixture
def spoil(monkeypatch):
    """Makes a weight a nan before a step of a phase, counted from 0."""

    def at(phase, step):
        take = Training.train_step

        def spoiling(self, batches):
            if (self._phase.label, self._done) == (phase, step):
                with torch.no_grad():
                    next(self._model.parameters()).view(-1)[0] = float("nan")
            take(self, batches)

        monkeypatch.setattr(Training, "train_step", spoiling)

    return at


def compress(model, output, **options):
    return fxprune.compress(model, tiny_data(), output=output, csgd_epochs=1, progress=False, device="cpu", **options)


def test_the_checkpoint_of_an_earlier_phase_is_named_and_can_be_begun_from(tmp_path, monkeypatch, spoil):
    out = tmp_path / "out"
    spoil("csgd", 0)
    with pytest.raises(DivergedError) as caught:
        compress(Tiny(), out, epochs=1)
    kept = out / "checkpoints" / "train.pt"
    assert f"the last good checkpoint is {kept}, of an earlier phase. Lower the rate" in str(caught.value)
    assert "give it as `checkpoint` (--checkpoint)" in str(caught.value)
    monkeypatch.undo()
    assert compress(Tiny(), tmp_path / "again", checkpoint=kept, csgd_lr=0.01).stages


def test_records_are_kept_where_there_is_no_checkpoint(tmp_path, spoil):
    model, plan = planned()
    plan.save(tmp_path / "plan.json")
    folder = tmp_path / "out" / "checkpoints"
    spoil("csgd", 0)
    says = rf"no checkpoint was written\. Lower .* What was measured before is in {folder / 'metrics.jsonl'}\."
    with pytest.raises(DivergedError, match=says):
        compress(model, tmp_path / "out", epochs=0, plan_file=tmp_path / "plan.json")
    assert [(record["phase"], record["epoch"]) for record in read_metrics(folder)] == [("csgd", 0)]


def test_the_phase_is_named(tmp_path, spoil):
    spoil("csgd", 0)
    with pytest.raises(DivergedError, match=r"the loss is nan at epoch 1, step 1 of 3, in `csgd`, at learning rate"):
        compress(Tiny(), tmp_path / "out", epochs=1)


def test_a_training_does_not_leave_it_to_the_next_one_to_find_its_nan(monkeypatch):
    take = Training.train_step

    def spoiling(self, batches):
        take(self, batches)
        if self._done == self.steps:
            with torch.no_grad():
                next(self._model.parameters()).view(-1)[0] = float("nan")

    monkeypatch.setattr(Training, "train_step", spoiling)
    says = r"weights are no longer finite at epoch 1, step 4 of 4, in `wide`"
    with pytest.raises(DivergedError, match=says):
        train(linear(), points(), epochs=1, lr=0.1, label="wide")


def test_a_network_in_which_nothing_trains_is_refused():
    with pytest.raises(OptionError, match=r"no parameter of the network takes gradients"):
        train(linear().requires_grad_(False), points(), epochs=1, lr=0.1)


def test_each_epoch_ends_with_a_checkpoint(tmp_path, spoil):
    spoil("train", 9)
    with pytest.raises(DivergedError, match=r"nan at epoch 3, step 2 of 4, .*train\.pt, after step 8\."):
        train(linear(), points(), epochs=3, lr=0.1, checkpoint=Checkpoint(tmp_path / "train.pt", {}))
    assert Checkpoint(tmp_path / "train.pt", {}).read()["steps"] == 8
