"""Training: its learning rates are known in advance, a seed decides everything, and a hook may ride along."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from helpers.networks.points import linear, points, weights
from torch import nn

from fxprune.common.random import seeded
from fxprune.errors import DataError, DivergedError, OptionError
from fxprune.models_zoo.data import Data, load_data
from fxprune.models_zoo.data.tensor_loader import TensorLoader
from fxprune.passes.options import TrainOptions
from fxprune.passes.train.evaluate import Accuracy, evaluate, predict
from fxprune.passes.train.fit import train
from fxprune.passes.train.schedule import learning_rates

# Schedule


@pytest.mark.parametrize(("warmup_epochs", "w"), [(0, 0), (1, 10), (0.5, 5), (2, 20)])
def test_learning_rates_follow_the_law(warmup_epochs, w):
    rates = learning_rates(lr=0.4, epochs=3, steps_per_epoch=10, warmup_epochs=warmup_epochs)
    law = [
        0.4 * (t + 1) / (w + 1) if t < w else 0.4 * (1 + math.cos(math.pi * (t - w) / (30 - w))) / 2 for t in range(30)
    ]
    assert rates == pytest.approx(law, rel=1e-12)  # float64, another order of the same operations
    assert max(rates) == rates[w] == 0.4
    assert min(rates) > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_takes_the_rates_that_were_announced(optimizer):
    data, seen = points(), []

    def watch(engine):
        handle = engine.register_step_pre_hook(lambda o, *_: seen.append({g["lr"] for g in o.param_groups}))
        return contextlib.closing(type("Watch", (), {"close": staticmethod(handle.remove)}))

    train(linear(), data, epochs=3, lr=0.1, warmup_epochs=1, optimizer=optimizer, optimizer_hook=watch)
    announced = learning_rates(lr=0.1, epochs=3, steps_per_epoch=len(data.train), warmup_epochs=1)
    assert seen == [{rate} for rate in announced]


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(0, 0), (2, 2), (1, 5)])
def test_a_schedule_without_steps(epochs, warmup_epochs):
    with pytest.raises(OptionError, match=f"{epochs} epochs of 4 steps with a warm-up of {warmup_epochs} epochs"):
        learning_rates(lr=0.1, epochs=epochs, steps_per_epoch=4, warmup_epochs=warmup_epochs)


# Training


def test_training_learns():
    model, data = linear(), points()
    before = evaluate(model, data.test)
    log = train(model, data, epochs=3, lr=0.1)
    assert log.epochs[-1].accuracy.top1 == 1.0 > before.top1
    assert log.epochs[-1].loss < log.epochs[0].loss
    assert evaluate(model, data.test) == log.epochs[-1].accuracy
    assert not model.training


def test_the_log_is_a_table_of_epochs():
    log = train(linear(), points(), epochs=2, lr=0.1)
    assert [e.number for e in log.epochs] == [1, 2]
    assert log.epochs[-1].lr == learning_rates(lr=0.1, epochs=2, steps_per_epoch=4)[-1]
    assert all(e.images_per_second > 0 for e in log.epochs)
    lines = str(log).splitlines()
    assert lines[0].split() == ["epoch", "loss", "test", "lr", "images/s"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"seed": 1}, {"seed": 1}, True),
        ({"seed": 1}, {"seed": 2}, False),
        ({"label_smoothing": 0.0}, {"label_smoothing": 0.1}, False),
        ({"weight_decay": 0.0}, {"weight_decay": 0.5}, False),
        ({"momentum": 0.5}, {"momentum": 0.9}, False),
        ({"optimizer": "sgd"}, {"optimizer": "adamw"}, False),
    ],
)
def test_what_decides_the_result(first, second, same):
    results = []
    for i, options in enumerate((first, second)):
        model = linear(dropout=0.5)
        torch.manual_seed(i)  # what was drawn before does not matter
        train(model, points(), epochs=2, lr=0.1, **options)
        results.append(weights(model))
    assert torch.equal(*results) is same


def test_weight_decay_spares_vectors():
    def groups(engine):
        found.extend((g["weight_decay"], p.ndim) for g in engine.param_groups for p in g["params"])
        return contextlib.nullcontext()

    found = []
    train(linear(), points(), epochs=2, lr=0.1, weight_decay=0.25, optimizer_hook=groups)
    assert sorted(found) == [(0.0, 1), (0.25, 2)]


def test_the_hook_is_open_from_before_the_first_step_to_after_the_last_epoch():
    events = []

    @contextlib.contextmanager
    def hook(engine):
        handle = engine.register_step_post_hook(lambda *_: events.append("step"))
        events.append("open")
        yield
        handle.remove()
        events.append("close")

    train(
        linear(), points(), epochs=2, lr=0.1, optimizer_hook=hook, on_epoch=lambda e: events.append(f"epoch {e.number}")
    )
    steps = ["step"] * 4
    assert events == ["open", *steps, "epoch 1", *steps, "epoch 2", "close"]


def test_a_loss_that_is_not_a_number_names_epoch_and_step_and_leaves_the_weights_finite():
    model = linear()
    with pytest.raises(
        DivergedError, match=r"nan at epoch 1, step 3 of 4, in `train`, at learning rate 0\.1; no checkpoint"
    ):
        train(model, points(bad=40), epochs=2, lr=0.1)
    assert weights(model).isfinite().all()


def test_a_rate_that_is_too_high_is_named():
    with pytest.raises(
        DivergedError, match=r"loss is (nan|inf) at epoch \d, step \d of 4, in `train`, at learning rate \d.*e\+"
    ):
        train(linear(), points(), epochs=3, lr=1e30, warmup_epochs=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sdg"}, "optimizer `sdg` cannot be made"),
        ({"momentum": 0.0}, "optimizer `sgd` cannot be made: Nesterov momentum requires"),
        ({"lr": 0.0}, "learning rate is 0; it must be above 0"),
        ({"lr": math.nan}, "learning rate is nan"),
        ({"epochs": 0}, "0 epochs"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        train(linear(), points(), **{"epochs": 1, "lr": 0.1, "warmup_epochs": 0, **options})


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_the_bar_is_on_stderr_if_forced_or_on_a_terminal(progress, shown, capsys):
    train(linear(), points(), epochs=2, lr=0.1, progress=progress, label="wide")
    captured = capsys.readouterr()
    assert ("wide 2/2" in captured.err and "test 100.00%" in captured.err) is shown
    assert captured.out == ""


def test_a_seed_changes_nobody_elses_numbers():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    with seeded(0):
        before = draw()
    with seeded(0):
        inside = []
        with seeded(1, 2):
            inside.append(draw())
        outside = draw()
        with seeded(1, 2):
            inside.append(draw())
    assert outside == before
    assert inside[0] == inside[1] != before


def test_digits_are_learnt_by_a_small_network():
    data = load_data("digits", image_size=8, batch_size=64)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    assert train(model, data, epochs=5, lr=0.1).epochs[-1].accuracy.top1 > 0.95


# Evaluation


class FirstPixel(nn.Module):
    """Calls an image class 1 if its first pixel is above 0, provided that it is in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Dropout(0.5)

    def forward(self, x):
        assert not self.training and not self.inner.training
        assert x.dtype == self.scale.dtype
        pixel = self.scale * x[:, 0, 0, 0]
        return torch.stack([-pixel, pixel], 1)


IMAGES = torch.tensor([1.0, -1.0, 2.0, -3.0, 1.0]).view(5, 1, 1, 1)
LABELS = torch.tensor([1, 0, 0, 0, 1])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions_come_in_the_order_of_the_loader(batch_size, dtype):
    loader = TensorLoader(IMAGES, LABELS, batch_size)
    predicted = predict(FirstPixel().to(dtype), loader)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == [1, 0, 1, 0, 1]
    assert evaluate(FirstPixel(), loader) == Accuracy(correct=4, count=5)


def test_an_evaluation_that_breaks_off_leaves_no_mode_behind():
    loader = [(torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.long))]
    with pytest.raises(RuntimeError) as kept:  # with all frames, until the end of this test
        evaluate(FirstPixel(), loader)
    assert kept.traceback
    assert not torch.is_inference_mode_enabled()


def test_accuracy_prints():
    assert Accuracy(359, 360).top1 == 359 / 360
    assert str(Accuracy(359, 360)) == "99.72% (359 of 360)"


def test_every_module_keeps_its_mode():
    model = FirstPixel().train()
    model.inner.eval()
    evaluate(model, TensorLoader(IMAGES, LABELS, 2))
    assert (model.training, model.inner.training) == (True, False)


def test_nothing_to_work_on():
    empty = TensorLoader(IMAGES[:0], LABELS[:0], 2)
    with pytest.raises(DataError, match="gave no batch"):
        evaluate(FirstPixel(), empty)
    with pytest.raises(DataError, match="`nothing` has no batch to train on"):
        train(linear(), Data("nothing", 2, 1, 1, empty, empty, (0.0,), (1.0,)), epochs=1, lr=0.1)


@pytest.mark.parametrize(
    "settings",
    [{"options": TrainOptions(), "sed": 3}, {"options": TrainOptions(), "make_hook": print}, {"make_hook": print}],
)
def test_a_setting_that_there_is_not_is_never_dropped(settings):
    with pytest.raises(TypeError, match=r"sed|make_hook"):
        train(linear(), points(), epochs=1, lr=0.1, **settings)


def test_a_class_without_an_output_is_named():
    data = dataclasses.replace(points(), num_classes=1)
    with pytest.raises(DataError, match=r"a training image of class 1, and its test data only 1 classes"):
        train(linear(), data, epochs=1, lr=0.1)
