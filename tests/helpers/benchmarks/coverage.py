"""A good network, and results of a coverage run written down by hand."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.checks.result import CheckResult, FrozenReason
from benchmarks.networks.classes import EntryPoint

EXAMPLE = (torch.empty(2, 3, 8, 8, device="meta"),)


def good_net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()


def result(model, **known):
    return CheckResult(**{"model": model, "depth": "onnx", "digest": "new", **known})


REASONS = (
    FrozenReason(60, "no rule for `sort`", "sort", "net.py:3"),
    FrozenReason(30, "no rule for `pop`", "pop", "net.py:9"),
)
FULL = result(
    "one",
    parameters=100,
    image=32,
    capture="symbolic",
    groups=3,
    share=0.25,
    frozen=REASONS,
    macs=1000,
    parameters_after=40,
    macs_after=300,
    error64=1.5e-15,
    error_onnx=2.5e-7,
    stage="onnx",
    seconds=3.4,
)
FAILED = result("two", parameters=50, error="Error: a | b\nc", stage="narrow", culprits=("g at node",))
POINTS = [
    EntryPoint("mod", "One", "one", 100, 64),
    EntryPoint("mod", "Two", "two", 50, 64),
    EntryPoint("m", "X", "x", 9, 8),
]
