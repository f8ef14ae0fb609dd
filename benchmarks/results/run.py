"""Run each arm: all start from the same wide network of their seed, and train equal epochs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import fxprune
from fxprune.models_zoo.data import load_data

from .bench import ArmTask, Bench
from .clock import step_times
from .rivals import Lasso, fisher_curve, mean_squares, remove, weakest, widths_by_loss
from .settings import CLOCKS, FISHER_BATCHES
from .squeeze import pacesetter, squeeze
from .train import score

Facts = dict[str, Any]

# The wider network that is squeezed to the width that its rival has from the start.
WIDER = 1.5
# Shares of the channels after each stage, up to the last one, which the arm names.
STAGES = (13 / 16, 11 / 16)


def run(task: ArmTask, record: Callable[..., None]) -> None:
    """Train one arm and record its results: columns of :class:`.journal.ArmRow`."""
    torch.set_num_threads(task.threads)
    settings = task.settings
    data = load_data(settings.data, image_size=settings.image_size, batch_size=settings.batch_size, seed=task.seed)
    start = time.perf_counter()
    ARMS[task.arm.name](Bench(task, data, record))
    record(train_seconds=time.perf_counter() - start)


def train_wide(bench: Bench) -> None:
    """Train the wide network, W + C epochs of plain SGD."""
    model = bench.wide()
    bench.record(before=score(model, bench.data).top1)
    bench.train(model, bench.more, phase=1)
    bench.tell_final(model)


def train_scratch(bench: Bench) -> None:
    """Train the narrow network from its first weights, W + C epochs under one cosine."""
    bench.tell_final(bench.fresh(bench.task.arm.share, bench.task.settings.wide_epochs + bench.more))


def train_csgd(bench: Bench, method: str = "kmeans", finetune: float = 0.0) -> None:
    """W epochs plain, C epochs of C-SGD, trim; a share of C may go to fine-tuning instead."""
    model = bench.wide()
    plan = fxprune.plan(bench.couple(model), bench.task.arm.share, method=method, seed=bench.task.seed)
    small = squeeze(bench, model, plan, bench.more * (1.0 - finetune), phase=1)
    if finetune:
        bench.train(small, bench.more * finetune, phase=2)
    bench.tell_final(small)


def train_uniform(bench: Bench) -> None:
    """C-SGD to a share of the MACs, each group to the same share of its channels."""
    model = bench.wide()
    plan = fxprune.plan(bench.couple(model), macs=bench.task.arm.share, seed=bench.task.seed)
    bench.tell_final(squeeze(bench, model, plan, bench.more, phase=1))


def train_allocated(bench: Bench, *, fisher: bool) -> None:
    """C-SGD to a share of the MACs, widths by the loss of clustering, plain or Fisher-weighted."""
    model = bench.wide()
    coupling, curve = bench.couple(model), None
    if fisher:
        with torch.random.fork_rng():
            images = (images for images, _ in itertools.islice(bench.data.train, FISHER_BATCHES))
            curve = partial(fisher_curve, mean_squares(model, images, bench.task.seed))
    widths, _ = widths_by_loss(coupling, "macs", bench.task.arm.share, curve=curve)
    plan = fxprune.plan(coupling, widths=widths, seed=bench.task.seed)
    bench.tell_final(squeeze(bench, model, plan, bench.more, phase=1))


def train_pacesetter(bench: Bench) -> None:
    """C-SGD with clusters that the first layer of each group decides alone."""
    model = bench.wide()
    plan = pacesetter(bench.couple(model), bench.task.arm.share, bench.task.seed)
    bench.tell_final(squeeze(bench, model, plan, bench.more, phase=1))


def train_staged(bench: Bench) -> None:
    """C-SGD and trim in three stages of C / 3 epochs, each narrower than the last."""
    model: nn.Module = bench.wide()
    first = bench.couple(model)
    shares = [*STAGES, bench.task.arm.share]
    widths = [{k: after for k, (_, after) in fxprune.plan(first, s, method="even").widths.items()} for s in shares]
    for stage, after in enumerate(widths):
        plan = fxprune.plan(bench.couple(model), widths=after, seed=bench.task.seed)
        model = squeeze(bench, model, plan, bench.more / len(widths), phase=1 + stage)
    bench.tell_final(model)


def train_squeezed(bench: Bench) -> None:
    """Train a network 1.5 times as wide, W epochs; C-SGD narrows it to the arm's in C epochs."""
    width = bench.task.arm.share
    model = bench.wide(width * WIDER)
    plan = fxprune.plan(bench.couple(model), 1.0 / WIDER, seed=bench.task.seed)
    bench.tell_final(squeeze(bench, model, plan, bench.more, phase=1))


def train_l1(bench: Bench) -> None:
    """W epochs, removal of the channels with the smallest L1 norm, C epochs of fine-tuning."""
    model = bench.wide()
    coupling = bench.couple(model)
    small = remove(model, coupling, weakest(coupling, bench.task.arm.share))
    _finetune(bench, model, small, bench.more, phase=1)


def train_merged(bench: Bench) -> None:
    """W epochs, the same clusters as C-SGD merged as they are, C epochs of fine-tuning."""
    model = bench.wide()
    plan = fxprune.plan(bench.couple(model), bench.task.arm.share, seed=bench.task.seed)
    _finetune(bench, model, fxprune.narrow(fxprune.snap(model, plan), plan), bench.more, phase=1)


def train_lasso(bench: Bench) -> None:
    """W epochs, C / 2 with group Lasso on the weakest channels, removal, C / 2 of fine-tuning."""
    model = bench.wide()
    coupling = bench.couple(model)
    gone = weakest(coupling, bench.task.arm.share)
    hooks: list[Lasso] = []

    def hook(optimizer: Optimizer, rates: Sequence[float]) -> Lasso:
        hooks.append(Lasso(model, coupling, gone, optimizer, rates))
        return hooks[0]

    bench.train(model, bench.more / 2, phase=1, hook=hook)
    bench.record(deviation=hooks[0].left())
    _finetune(bench, model, remove(model, coupling, gone), bench.more / 2, phase=2)


def _finetune(bench: Bench, model: nn.Module, small: nn.Module, epochs: float, *, phase: int) -> None:
    before, trimmed = score(model, bench.data), score(small, bench.data)
    bench.record(before=before.top1, trimmed=trimmed.top1, changed=before.changed(trimmed))
    bench.train(small, epochs, phase=phase)
    bench.tell_final(small)


def measure_clock(bench: Bench) -> None:
    """Measure the seconds of a step of C-SGD and of plain SGD, side by side."""
    model = bench.wide()
    plan = fxprune.plan(bench.couple(model), bench.task.arm.share, seed=bench.task.seed)
    settings, data = bench.task.settings, bench.data
    if batch := CLOCKS[bench.task.arm.name]:
        data = load_data(settings.data, image_size=settings.image_size, batch_size=batch, seed=bench.task.seed)
    plain, pulled = step_times(model, plan, data, settings)
    bench.record(sgd_ms=1e3 * plain, csgd_ms=1e3 * pulled)


ARMS: Mapping[str, Callable[[Bench], None]] = {
    "wide": train_wide,
    "scratch": train_scratch,
    "csgd": train_csgd,
    "even": lambda bench: train_csgd(bench, "even"),
    "imbalanced": lambda bench: train_csgd(bench, "imbalanced"),
    "uniform": train_uniform,
    "inertia": partial(train_allocated, fisher=False),
    "fisher": partial(train_allocated, fisher=True),
    "pacesetter": train_pacesetter,
    "staged": train_staged,
    "finetuned": lambda bench: train_csgd(bench, finetune=0.5),
    "squeezed": train_squeezed,
    "l1": train_l1,
    "lasso": train_lasso,
    "merged": train_merged,
    **dict.fromkeys(CLOCKS, measure_clock),
}
