"""Couplings written down by hand, so that what acts on a coupling is tested without the analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from fxprune.coupling import Axis, Coupling, Frozen, Group
from fxprune.node_facts import NodeFacts, Work
from fxprune.pytorch.modules import named_tensors

torch.set_num_threads(1)  # tensors are tiny here, and threads of several test processes would wait for each other


def coupling_of(model, inputs, groups, works=(), frozen=()):
    """Coupling from lines of text.

    groups: (width, "tied axes", "reader axes", domain); an axis is `name:dim`, `name:dim*n` where a channel occurs n
    times in a row (flatten) or `name:dim/n` where it occurs once in each of n equal parts (heads).
    works: (node, macs, "groups of the axes that scale with").
    """
    made, offset = {}, 0
    for width, tied, readers, domain in groups:
        axes = [tuple(_axis(text, width) for text in side.split()) for side in (tied, readers)]
        name = axes[0][0].parameter
        made[name] = Group(name, width, *axes, domain, offset)
        offset += width
    nodes = {}
    for node, macs, names in works:
        codes = tuple(np.arange(made[n].offset, made[n].offset + made[n].width) for n in names.split())
        nodes[node] = NodeFacts(
            None, (), (*nodes[node].works, Work(macs, codes)) if node in nodes else (Work(macs, codes),)
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    graph_module, first = fx.symbolic_trace(model), {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    shared = {name: first[id(tensor)] for name, tensor in named_tensors(model)}
    reason = tuple(Frozen((), why, "node", "-", 0) for why in frozen)
    return Coupling(
        groups=made,
        frozen=reason,
        shapes=shapes,
        graph_module=graph_module,
        nodes=nodes,
        layers={},
        example_inputs=inputs,
        network=model,
        shared=shared,
    )


def _axis(text, width):
    name, _, place = text.partition(":")
    if "*" in place:
        dim, times = map(int, place.split("*"))
        return Axis(name, dim, np.arange(width * times).reshape(width, times))
    if "/" in place:
        dim, times = map(int, place.split("/"))
        return Axis(name, dim, np.arange(width * times).reshape(times, width).T)
    return Axis(name, int(place), np.arange(width)[:, None])


class Plain(nn.Module):
    """Conv-BN-ReLU-Conv-BN-ReLU-flatten-Linear."""

    def __init__(self, first=8, second=6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.head = nn.Linear(second * 16, 5)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.head(x.flatten(1))


class Normed(nn.Module):
    """Two widths under two layer norms in one domain, and a shared weight: tokens in, tokens out."""

    def __init__(self, width=12, hidden=8):
        super().__init__()
        self.up = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width)
        self.mid = nn.Linear(width, hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.down = nn.Linear(hidden, 5)
        self.again = nn.Linear(hidden, 5, bias=False)
        self.again.weight = self.down.weight

    def forward(self, x):
        x = self.norm2(self.mid(self.norm(self.up(x)).tanh())).tanh()
        return self.down(x) + self.again(x)


class Square(nn.Module):
    """A weight with two tied axes: a table [height, width], added to the outer product of two layers' outputs."""

    def __init__(self, height=6, width=8):
        super().__init__()
        self.rows = nn.Linear(4, height)
        self.columns = nn.Linear(4, width)
        self.table = nn.Parameter(torch.randn(height, width))
        self.by_row = nn.Linear(height, 3)
        self.by_column = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.rows(x)[:, :, None] * self.columns(x)[:, None, :] + self.table)
        return self.by_row(self.by_column(x).transpose(1, 2))


@dataclass(frozen=True)
class Case:
    model: nn.Module
    inputs: tuple
    coupling: Coupling


def bn(name):
    return " ".join(f"{name}.{part}:0" for part in ("weight", "bias", "running_mean", "running_var"))


def plain(seed=0):
    model = randomise(Plain(), seed)
    groups = [
        (8, f"conv1.weight:0 conv1.bias:0 {bn('bn1')}", "conv2.weight:1", -1),
        (6, f"conv2.weight:0 {bn('bn2')}", "head.weight:1*16", -1),
    ]
    pixels = 2 * 16
    works = [
        ("conv1", pixels * 8 * 27, "conv1.weight"),
        ("conv2", pixels * 6 * 8 * 9, "conv1.weight conv2.weight"),
        ("head", 2 * 96 * 5, "conv2.weight"),
    ]
    inputs = (torch.randn(2, 3, 4, 4, dtype=torch.float64),)
    return Case(model, inputs, coupling_of(model, inputs, groups, works))


def normed():
    model = randomise(Normed(), 0)
    groups = [
        (12, "up.weight:0 up.bias:0 norm.weight:0 norm.bias:0", "mid.weight:1", 0),
        (8, "mid.weight:0 mid.bias:0 norm2.weight:0 norm2.bias:0", "down.weight:1", 0),
    ]
    works = [
        ("up", 3 * 60, "up.weight"),
        ("mid", 3 * 96, "up.weight mid.weight"),
        ("down", 3 * 40, "mid.weight"),
        ("again", 3 * 40, "mid.weight"),
    ]
    inputs = (torch.randn(3, 5, dtype=torch.float64),)
    return Case(model, inputs, coupling_of(model, inputs, groups, works))


def square():
    model = randomise(Square(), 0)
    groups = [
        (6, "rows.weight:0 rows.bias:0 table:0", "by_row.weight:1", -1),
        (8, "columns.weight:0 columns.bias:0 table:1", "by_column.weight:1", -1),
    ]
    inputs = (torch.randn(3, 4, dtype=torch.float64),)
    return Case(model, inputs, coupling_of(model, inputs, groups))


def randomise(model, seed):
    """Random float64 weights and running statistics: nothing is 0 or 1 by accident."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return model


def filled(model, seed=0):
    return randomise(model, seed).float()


def same_state(one, other):
    state = other.state_dict()
    return all(tensor.equal(state[name]) for name, tensor in one.state_dict().items())
