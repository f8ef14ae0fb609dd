"""Couplings made by hand: linear layers, every inner width of which is a group."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from helpers.couplings.cases import coupling_of


class Tower(nn.Module):
    """Three linear layers of free widths."""

    def __init__(self, *widths):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))

    def forward(self, x):
        return self.layers(x)


def tower(*widths, domain=-1, occurrences=1, frozen=()):
    """Linear layers; every inner width is a group. The model is returned to keep it alive."""
    model = Tower(*(width * (occurrences if 0 < i < len(widths) - 1 else 1) for i, width in enumerate(widths)))
    axis = f"*{occurrences}"
    domains = [domain] * len(widths[1:-1]) if isinstance(domain, int) else domain
    groups = [
        (width, f"layers.{i}.weight:0{axis}", f"layers.{i + 1}.weight:1{axis}", domains[i])
        for i, width in enumerate(widths[1:-1])
    ]
    works = []
    for i, layer in enumerate(model.layers):
        names = [f"layers.{j}.weight" for j in (i - 1, i) if 0 <= j < len(widths) - 2]
        works.append((f"layers_{i}", layer.weight.numel(), " ".join(names)))
    return model, coupling_of(model, (torch.randn(1, widths[0]),), groups, works, frozen)


def after(plan):
    return [width for _, width in plan.widths.values()]
