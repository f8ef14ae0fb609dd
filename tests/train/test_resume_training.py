"""A training that breaks off ends with the same bits as one that does not, and a bad loss says what is kept."""

from __future__ import annotations

import pytest
import torch
from helpers.image_folder import make_folder
from helpers.networks.points import linear, points, weights
from torch import nn

from fxprune.errors import DivergedError
from fxprune.models_zoo.data import load_data
from fxprune.passes.store.checkpoint import Checkpoint
from fxprune.passes.train.fit import train
from fxprune.passes.train.loop import Training


def checkpoint(folder, every=0):
    return Checkpoint(folder / "train.pt", {}, every)


OPTIONS = {"epochs": 3, "lr": 0.1, "progress": False}
MIXED = {"mixup": 0.3, "cutmix": 1.0, "mixup_prob": 0.8}
CASES = {
    "plain": {},
    "accumulated": {"accumulate": 3},
    "mixed and averaged": {**MIXED, "ema": 0.8},
    "scaled": {"amp": "float16", "clip_grad": 0.1},
    "bfloat16, channels last": {"amp": "bfloat16", "channels_last": True},
    "adamw": {"optimizer": "adamw", "clip_grad": 0.1, "clip_mode": "agc"},
    "lion": {"optimizer": "lion", "scheduler": "multistep", "decay_milestones": [1.5, 2]},
    "lookahead": {"optimizer": "lookahead_sgd"},
}


class Stops(BaseException):
    pass


@pytest.mark.parametrize("case", CASES)
def test_a_training_that_breaks_off_ends_as_if_it_had_not(tmp_path, monkeypatch, case):
    expected = convolution()
    log = train(expected, points(), **OPTIONS, **CASES[case])
    take, taken = Training.train_step, []

    def breaking(self, batches):
        take(self, batches)
        taken.append(1)
        if len(taken) in (1, 4, 6, 7, 10):
            raise Stops

    monkeypatch.setattr(Training, "train_step", breaking)
    runs = 0
    while True:
        runs += 1
        model = convolution()
        try:
            again = train(model, points(), **OPTIONS, **CASES[case], checkpoint=checkpoint(tmp_path, every=2))
            break
        except Stops:
            torch.rand(3)  # what is drawn elsewhere does not matter
    assert runs > 3
    assert torch.equal(weights(model), weights(expected))
    seen = [(e.number, e.steps, e.loss, e.accuracy, e.lr) for e in again.epochs]
    assert seen == [(e.number, e.steps, e.loss, e.accuracy, e.lr) for e in log.epochs]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_worker_processes_that_augment_it_ends_as_if_it_had_not_broken_off(tmp_path, monkeypatch, workers):
    root = make_folder(tmp_path, size=(12, 12), each=6)
    options = {"batch_size": 2, "workers": workers, "auto_augment": "rand-m9-n2", "random_erasing": 0.5}
    take, steps = Training.train_step, []

    def run(stop_at=None, **more):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        steps.clear()

        def breaking(self, batches):
            take(self, batches)
            steps.append(batches[0][0])
            if len(steps) == stop_at:
                raise Stops

        monkeypatch.setattr(Training, "train_step", breaking)
        data = load_data(str(root), **options)
        train(model, data, **{**OPTIONS, "epochs": 2}, mixup=0.3, **more)
        return weights(model)

    expected = run()
    assert len(steps) == 12 and not torch.equal(steps[0], steps[6])
    with pytest.raises(Stops):
        run(10, checkpoint=checkpoint(tmp_path, every=4))
    torch.rand(3)  # what is drawn elsewhere does not matter
    again = run(checkpoint=checkpoint(tmp_path, every=4))
    assert len(steps) == 4 and torch.equal(again, expected)


def convolution():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(3, 2)
    )


def test_a_bad_loss_names_its_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match=r"nan at epoch 1, step 3 of 4, .* checkpoint is .*train\.pt, after step 2"):
        train(linear(), points(bad=40), **OPTIONS, checkpoint=checkpoint(tmp_path, every=1))
    assert checkpoint(tmp_path).read()["steps"] == 2


def test_weights_that_are_not_numbers_are_not_written(tmp_path, monkeypatch):
    take = Training.train_step

    def spoiling(self, batches):
        take(self, batches)
        if self._done == 4:
            with torch.no_grad():
                self._model[2].weight[0, 0] = float("nan")

    monkeypatch.setattr(Training, "train_step", spoiling)
    with pytest.raises(DivergedError, match=r"weights are no longer finite at epoch 1, step 4 of 4.*after step 2"):
        train(linear(), points(), **OPTIONS, checkpoint=checkpoint(tmp_path, every=2))


def test_on_a_device_that_is_seldom_asked_the_step_is_named_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("fxprune.passes.train.step.CPU_EVERY", 32)
    with pytest.raises(DivergedError, match=r"loss is nan at epoch 1, step 3 of 4"):
        train(linear(), points(bad=40), **OPTIONS)
