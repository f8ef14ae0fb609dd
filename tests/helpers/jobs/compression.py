"""A main job of seconds in which everything is on that draws or remembers, and ways for it to die."""

from __future__ import annotations

import functools
import json
import os
import signal

import torch
from torch import nn

import fxprune
import fxprune.passes.job.compression
from fxprune.costs import PairedTimes
from fxprune.models_zoo.data.dataset import Data
from fxprune.models_zoo.data.tensor_loader import TensorLoader
from fxprune.passes.job import measure as compress_measure


class Tiny(nn.Module):
    """Two convolutions with dropout between them, so that every step draws."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(self.drop(self.norm(self.first(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


def tiny_data(count=48):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3
    train = TensorLoader(images, labels, 8, shuffle=True, shift=1)
    return Data("noise", 3, 1, 8, train, TensorLoader(images, labels, 16), (0.0,), (1.0,))


def compress(output, **options):
    """Six steps an epoch, two epochs each, everything on that draws or remembers."""
    # Timing, for which the wide network is exported too, is most of so small a job.
    compress_measure.alternated = compress_measure._Table._exported_times = lambda *_: PairedTimes(1.0, 1.0, 15)
    torch.manual_seed(0)
    chosen = {
        "epochs": 2,
        "csgd_epochs": 2,
        "mixup": 0.2,
        "ema": 0.9,
        "clip_grad": 1.0,
        "optimizer": "adamw",
        "lr": 0.005,  # at ten times the rate the network dies, and nothing that is drawn changes anything
        "csgd_lr": 0.005,
        "teacher": "wide",
        "deviation": 1e-3,
        "checkpoint_every": 4,
        "progress": False,
        "device": "cpu",
    }
    given = {"model": Tiny(), "data": tiny_data(), "output": output}
    return fxprune.compress(**{**given, **chosen, **options})


def dies(where, count, how="SIGKILL"):
    """Send this process a signal when a function of ours is called for the count-th time."""
    name, attribute = where.split(":")
    *path, last = attribute.split(".")
    owner = functools.reduce(getattr, path, __import__(name, fromlist=["_"]))
    call, calls = getattr(owner, last), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), getattr(signal, how))
        return call(*args, **kwargs)

    setattr(owner, last, dying)


def run_until(where, count, output):
    """Run the job in a process that does not come to its end."""
    dies(where, count)
    compress(output)


def numbers(folder):
    """Every record of a run, without those that tell the time."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "images_per_second"} for line in lines]


def broken_off(*_):
    raise KeyboardInterrupt
