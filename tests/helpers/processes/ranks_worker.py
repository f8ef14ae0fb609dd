"""What tests/train/test_ranks.py looks at: run in two processes, or called in one."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from fxprune.analysis.couple import couple
from fxprune.errors import FxpruneError, PlanError
from fxprune.models_zoo.data.dataset import Data
from fxprune.models_zoo.data.tensor_loader import TensorLoader
from fxprune.passes.csgd.hook import csgd
from fxprune.passes.distributed.ranks import ALONE, Ranks, joined
from fxprune.passes.options.training import TrainOptions
from fxprune.passes.planning.plan import plan
from fxprune.passes.train.evaluate import evaluate
from fxprune.passes.train.fit import train
from helpers.jobs import compression
from helpers.networks.points import points

DEVICE = torch.device("cpu")


def images(count=30):
    """With ten images a batch, the parts of two processes have four and six."""
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    train = TensorLoader(pixels, labels, 10, shuffle=True, shift=1)
    return Data("noise", 3, 1, 8, train, TensorLoader(pixels[:7], labels[:7], 5), (0.0,), (1.0,))


def network(norm=False, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


# name -> the network, and how it is trained
TRAININGS = {
    "plain": ({}, {}),
    "mixed, clipped, accumulated": ({}, {"mixup": 0.3, "cutmix": 0.3, "clip_grad": 0.1, "accumulate": 2}),
    "averaged": ({}, {"ema": 0.5}),
    "float16": ({}, {"amp": "float16"}),
    "normalised": ({"norm": True, "dropout": 0.2}, {"ema": 0.9, "optimizer": "adamw"}),
}


def trained(name: str, ranks: Ranks = ALONE):
    """Weights after four steps with C-SGD, and what the log says."""
    net, options = TRAININGS[name]
    model = network(**net)
    clusters = plan(couple(model, torch.empty(2, 1, 8, 8, device="meta")), 0.5)
    log = train(
        model,
        images(),
        epochs=2,
        lr=0.1,
        options=TrainOptions(**options),
        optimizer_hook=lambda optimizer: csgd(model, clusters, optimizer, strength=1.0),
        ranks=ranks,
        progress=False,
    )
    return model.state_dict(), [(epoch.loss, epoch.accuracy.correct, epoch.accuracy.count) for epoch in log.epochs]


def outcome(call):
    try:
        return call()
    except FxpruneError as error:
        return f"{type(error).__name__}: {error}"


def fails():
    raise PlanError("of the first process")


class Unused(nn.Module):
    """Has a parameter that takes no part."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x.flatten(1))


def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def one_sided(ranks):
    """A hook that acts in the second process only."""

    def hook(optimizer):
        if not ranks.first:
            weight = optimizer.param_groups[0]["params"][0]
            optimizer.register_step_post_hook(lambda *_: weight.data.mul_(0.9))
        return nullcontext()

    return hook


def own_loop(ranks: Ranks, method: str = "kmeans", zero: bool = False):
    """Three steps of a loop like a user's; weights and deviation after them."""
    model = network(norm=True)
    clusters = plan(couple(model, torch.empty(2, 1, 8, 8, device="meta")), 0.5, method=method)
    wrapped = DistributedDataParallel(model)
    settings = {"lr": 0.1, "momentum": 0.9}
    optimizer = (
        ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, **settings)
        if zero
        else torch.optim.SGD(model.parameters(), **settings)
    )
    hook = csgd(wrapped, clusters, optimizer, strength=5.0)
    torch.manual_seed(ranks.rank)
    for _ in range(3):
        loss = wrapped(torch.randn(8, 1, 8, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [float(weight.detach().double().sum()) for weight in model.parameters()], hook.deviation().largest


def sharded():
    model = network()
    clusters = plan(couple(model, torch.empty(2, 1, 8, 8, device="meta")), 0.5)
    fully_shard(model)
    csgd(model, clusters, torch.optim.SGD(model.parameters(), lr=0.1), strength=1.0)


def main(folder: Path) -> None:
    with joined(DEVICE) as ranks:
        for name in TRAININGS:
            torch.save(trained(name, ranks), folder / f"{name} {ranks.rank}.pt")
        short = {"epochs": 1, "lr": 0.1, "warmup_epochs": 0, "ranks": ranks, "progress": False}
        few = TensorLoader(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), 1)
        calls = {
            "shared error": lambda: ranks.share(fails),
            "one-sided": lambda: train(flat(), points(), optimizer_hook=one_sided(ranks), **short),
            "not a number": lambda: train(flat(), points(bad=7), **short),
            "small batch": lambda: train(flat(), points(batch_size=3), **short),
            "unused": lambda: len(train(Unused(), points(), **short).epochs),
            "own loop": lambda: own_loop(ranks),
            "own loop, sharded state": lambda: own_loop(ranks, zero=True),
            "plans that differ": lambda: own_loop(ranks, "even" if ranks.first else "imbalanced"),
            "sharded": sharded,
            "one image": lambda: evaluate(network(), few, ranks=ranks).count,
        }
        found = {name: outcome(call) for name, call in calls.items()}
    rank = ranks.rank
    found["undisturbed"] = str(compression.compress(folder / "undisturbed"))
    if rank == 1:
        compression.dies("fxprune.passes.train.step:Step.apply", 15, "SIGTERM")
    found["stopped"] = outcome(lambda: compression.compress(folder / "resumed"))
    with joined(DEVICE) as ranks:  # neither process goes on, and writes there again, before both have looked
        found["checkpoints"] = ranks.share(lambda: sorted(path.name for path in (folder / "resumed").rglob("*")))
    found["resumed"] = str(compression.compress(folder / "resumed", resume="auto"))
    (folder / f"{rank}.json").write_text(json.dumps(found))


def run(folder: Path, rank: int, port: int) -> None:
    """Be one of the two processes, as torchrun starts them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in {**place, **numbers}.items()})
    main(folder)
