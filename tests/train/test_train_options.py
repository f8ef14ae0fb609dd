"""What the options of a training do: schedules, losses, precision, clipping, averages."""

from __future__ import annotations

import copy
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.couplings.cases import plain
from helpers.csgd.steps import PLAIN, assert_shrunk, away, plan_of
from helpers.networks.points import linear, points, weights
from timm.optim import Lookahead
from torch import nn

from fxprune.errors import OptionError
from fxprune.passes.csgd.hook import csgd
from fxprune.passes.distributed.sharding import LocalBatch
from fxprune.passes.options.job import Job
from fxprune.passes.options.training import Scheduler, TrainOptions
from fxprune.passes.train.evaluate import evaluate
from fxprune.passes.train.fit import train
from fxprune.passes.train.loss import make_loss
from fxprune.passes.train.schedule import learning_rates
from fxprune.passes.train.step import Step, check_optimizer, make_optimizer

# Schedules: 6 epochs of 4 steps

FALLS = {
    "constant": ({}, {5: 0.4, 12: 0.4, 23: 0.4}),
    "multistep": ({"decay_milestones": [2, 4.5]}, {7: 0.4, 8: 0.04, 17: 0.04, 18: 0.004}),
    "step": ({"decay_epochs": 2, "decay_rate": 0.5}, {7: 0.4, 8: 0.2, 16: 0.1, 23: 0.1}),
    "poly": ({"warmup_epochs": 0}, {0: 0.4, 6: 0.3, 12: 0.2, 18: 0.1}),
    "poly, squared": ({"warmup_epochs": 0, "decay_rate": 2}, {12: 0.1}),
    "cosine": ({"warmup_epochs": 0, "min_lr": 0.1}, {0: 0.4, 12: 0.25}),
}


@pytest.mark.parametrize("case", FALLS)
def test_how_a_rate_falls(case):
    options, law = FALLS[case]
    rates = learning_rates(lr=0.4, epochs=6, steps_per_epoch=4, scheduler=case.partition(",")[0], **options)
    # float64, another order of the same operations
    assert {step: rates[step] for step in law} == pytest.approx(law, rel=1e-12)


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_schedule_is_the_one_that_was_announced(scheduler, accumulate):
    seen, data = [], points()
    options = {"scheduler": scheduler, "decay_milestones": [2, 3], "accumulate": accumulate, "warmup_epochs": 0.5}
    watch = lambda optimizer: Watch(optimizer, lambda: seen.append(optimizer.param_groups[0]["lr"]))  # noqa: E731
    train(linear(), data, epochs=4, lr=0.1, optimizer_hook=watch, **options)
    steps = -(-len(data.train) // accumulate)
    assert seen == learning_rates(lr=0.1, epochs=4, steps_per_epoch=steps, **options)
    assert max(seen) == pytest.approx(0.1)
    assert seen[0] < 0.1


class Watch:
    def __init__(self, optimizer, call):
        self.handle = optimizer.register_step_pre_hook(lambda *_: call())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


# One step


def one_step(model, batches, loss=None, **options):
    options = TrainOptions(momentum=0.0, optimizer="momentum", weight_decay=0.0, **options)
    optimizer = make_optimizer(model, options, lr=1.0)
    step = Step(model, optimizer, loss or make_loss(options, 2), options, "cpu")
    value = step.gradients(batches)
    return value, step.apply(), optimizer


def test_accumulated_batches_make_the_step_of_their_union():
    (images, labels), *_ = points(batch_size=12).test
    once, twice = linear(), linear()
    first, *_ = one_step(once, [LocalBatch(images, labels, len(labels))])
    second, *_ = one_step(twice, [LocalBatch(images[:6], labels[:6], 6), LocalBatch(images[6:], labels[6:], 6)])
    assert float(first) == pytest.approx(float(second), rel=1e-6)  # float32, another order of the sum
    torch.testing.assert_close(weights(once), weights(twice), rtol=1e-6, atol=1e-7)


def test_a_scaled_loss_makes_the_same_step_and_a_step_that_overflows_is_left_out():
    (images, labels), *_ = points().test
    exact, half, skipped = linear(), linear(), linear()
    _, taken, _ = one_step(exact, [LocalBatch(images, labels, len(labels))])
    assert taken
    _, taken, _ = one_step(half, [LocalBatch(images, labels, len(labels))], amp="float16")
    assert taken
    assert half[2].weight.dtype == torch.float32
    # float16 rounds products at 5e-4
    torch.testing.assert_close(weights(half), weights(exact), rtol=5e-3, atol=5e-3)
    overflow = lambda model, images, labels: 1e38 * model(images).float().sum()  # noqa: E731
    _, taken, _ = one_step(skipped, [LocalBatch(images, labels, len(labels))], loss=overflow, amp="float16")
    assert not taken
    assert torch.equal(weights(skipped), weights(linear()))


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("amp", [None, "float16"])
def test_rows_of_a_cluster_stay_together_however_gradients_are_clipped(mode, optimizer, amp):
    case = plain()
    plan = plan_of(case, PLAIN)
    options = TrainOptions(optimizer=optimizer, clip_grad=1e-3, clip_mode=mode, weight_decay=0.0)
    engine = make_optimizer(case.model, options, lr=0.05)
    loss = lambda model, images, labels: model(images).square().mean()  # noqa: E731
    step = Step(case.model, engine, loss, options, "cpu")
    step.scaler = torch.amp.GradScaler("cpu", enabled=amp is not None, init_scale=1024.0)
    before, first = away(case.model, plan), copy.deepcopy(case.model.conv2.weight.detach())
    with csgd(case.model, plan, engine, strength=2.0):
        for _ in range(5):
            step.gradients([LocalBatch(case.inputs[0], torch.zeros(1), 1)])
            assert step.apply()
    assert_shrunk(before, away(case.model, plan), 0.9**5)
    assert not torch.equal(first, case.model.conv2.weight)


# Losses


def test_a_teacher_pulls_logits_towards_its_own():
    (images, labels), *_ = points().test
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model = linear().eval()
    value = make_loss(TrainOptions(teacher_temperature=2.0, teacher_weight=0.25), 2, teacher)(model, images, labels)
    theirs, ours = (F.softmax(net(images) / 2.0, 1) for net in (teacher, model))
    distance = 4.0 * (theirs * (theirs.log() - ours.log())).sum(1).mean()
    expected = 0.75 * F.cross_entropy(model(images), labels) + 0.25 * distance
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)  # float32
    value.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    same = make_loss(TrainOptions(teacher_weight=1.0), 2, copy.deepcopy(model))(model, images, labels)
    assert abs(same.item()) < 1e-6  # float32


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_have_mixed_targets_and_the_given_ones_stay_as_they_are(options):
    np.random.seed(0)  # timm draws from it; a box may be empty
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
    before, seen = images.clone(), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    make_loss(TrainOptions(**options), 2)(model, images, labels)
    assert torch.equal(images, before)
    assert not torch.equal(seen[0], before)


def test_pairs_need_an_even_batch():
    loss = make_loss(TrainOptions(mixup=1.0), 2)
    with pytest.raises(OptionError, match="a batch has 3: take an even batch size"):
        loss(linear(), torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long))


# Whole trainings


def test_the_average_is_what_is_evaluated_and_kept():
    model, plainly = linear(), linear()
    log = train(model, points(), epochs=2, lr=0.1, ema=0.999)
    train(plainly, points(), epochs=2, lr=0.1)
    assert not torch.equal(weights(model), weights(plainly))
    assert evaluate(model, points().test) == log.epochs[-1].accuracy


@pytest.mark.parametrize("options", [{"amp": "float16"}, {"amp": "bfloat16"}, {"channels_last": True}, {"mixup": 0.2}])
def test_training_learns_with(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    log = train(model, points(), epochs=4, lr=0.1, **options)
    assert log.epochs[-1].accuracy.top1 > 0.9
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_refused(dtype):
    with pytest.raises(OptionError, match=r"`2\.weight` is b?float16: .* provably do not converge.*amp='b?float16'"):
        train(linear().to(dtype), points(), epochs=1, lr=0.1)


# Options


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sdg", "optimizer `sdg` cannot be made"),
        ("adahessian", "needs second derivatives"),
        ("lookahead_sgd", "`lookahead_sgd` calls no hooks when it steps"),
    ],
)
def test_optimizers_that_c_sgd_cannot_ride_on(name, says, monkeypatch):
    # PyTorch wraps the step of a class when one of its optimizers is copied, as by another test: then it calls hooks.
    if hasattr(Lookahead.step, "hooked"):
        monkeypatch.setattr(Lookahead, "step", Lookahead.step.__wrapped__)
    with pytest.raises(OptionError, match=says):
        check_optimizer(TrainOptions(optimizer=name))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheduler": "plateau"}, "`scheduler` must be one of cosine, tanh"),
        ({"scheduler": "multistep"}, "`decay_milestones` must say after which epochs"),
        ({"decay_milestones": [4, 2]}, "`decay_milestones` must be epochs above 0 in ascending order"),
        ({"csgd_decay_milestones": [0]}, "`csgd_decay_milestones` must be epochs"),
        ({"decay_milestones": 3}, "`decay_milestones` must be epochs"),
        ({"amp": "float8"}, "`amp` must be one of float16, bfloat16, not float8"),
        ({"clip_mode": "all"}, "`clip_mode` must be one of norm, value, agc"),
        ({"clip_grad": 0.0}, "`clip_grad` must be above 0"),
        ({"ema": 1.0}, "`ema` must be above 0 and below 1"),
        ({"accumulate": 0}, "`accumulate` must be 1 or more"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be 0 or more and below 1"),
        ({"mixup": 0.2, "batch_size": 7}, "mix images in pairs: `batch_size` 7 must be even"),
        ({"teacher_model": "resnet20", "teacher": "wide"}, "give that file as `teacher`"),
        ({"resume": "always"}, "`resume` must be `auto`, or left out"),
        ({"checkpoint_every": -1}, "`checkpoint_every` must be 0 or more"),
    ],
)
def test_options_of_a_job_are_checked_when_it_is_made(options, says):
    with pytest.raises(OptionError, match=says):
        Job(model="resnet20", data="digits", **options)


def test_c_sgd_trains_weights_and_not_their_average():
    job = Job(model="m", data="d", ema=0.9, scheduler="multistep", decay_milestones=[1], csgd_decay_milestones=[2])
    assert (job.of_wide().ema, job.of_wide().decay_milestones) == (0.9, [1])
    assert (job.of_csgd().ema, job.of_csgd().decay_milestones) == (None, [2])
