"""A length is called fixed if it is the same at all sizes of inputs, and only then."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.lengths import lengths_told, runs_at
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.analysis.lengths.factors import is_fixed

SIZES = (2, 3, 10, 14), (3, 3, 15, 21)
FILTER = torch.ones(8, 8, 3, 3)


def pairs(y, p):
    """Products of pooled and of all positions, [b, 24, h * w]."""
    return p.flatten(2).mT @ y.flatten(2)


# Of images `y` [b, 8, h, w] and pooled ones `p` [b, 8, 4, 6].
OPERATIONS = {
    "none": lambda y, p: p,
    "pointwise": lambda y, p: torch.where(p > 0, p.relu(), 0 * p),
    "broadcast": lambda y, p: p + p.mean((2, 3), True),
    "broadcast from the left": lambda y, p: p.mean((2, 3), True) * p,
    "met by a constant": lambda y, p: p * torch.ones(4, 1),
    "permute": lambda y, p: p.permute(0, 3, 1, 2),
    "transpose": lambda y, p: p.transpose(1, -1),
    "swapaxes": lambda y, p: p.swapaxes(2, 3),
    "mT": lambda y, p: p.mT,
    "t": lambda y, p: pairs(y, p).mean(0).t(),
    "mT of an open axis": lambda y, p: pairs(y, p).mT,
    "transpose of an open axis": lambda y, p: pairs(y, p).transpose(1, 2),
    "transpose from the end": lambda y, p: pairs(y, p).transpose(-1, 0),
    "transpose of a vector": lambda y, p: pairs(y, p).mean((0, 2)).t(),
    "flatten": lambda y, p: p.flatten(2),
    "flatten positions": lambda y, p: y.flatten(2),
    "flatten without samples": lambda y, p: p.mean(0, True).flatten(2),
    "unflatten": lambda y, p: p.flatten(2).unflatten(2, (3, 8)),
    "unflatten in the middle": lambda y, p: p.transpose(1, 2).flatten(2).mT.unflatten(2, (2, 2)).sum(1),
    "view": lambda y, p: p.view(p.shape[0], 8, 8, 3),
    "view with an open size": lambda y, p: p.view(p.shape[0], 8, -1, 3),
    "view of positions": lambda y, p: y.mean(1).view(y.shape[0], 10, -1) if y.shape[2] == 10 else y.mean(1)[:, :10],
    "view without channels": lambda y, p: p.mean(1).view(p.shape[0], 24).view(p.shape[0], 2, 1, 12),
    "view with samples": lambda y, p: p.mean(1).view(-1, 6).view(p.shape[0], 4, 6),
    "reshape and back": lambda y, p: p.permute(0, 2, 3, 1).reshape(-1, 8).view(-1, 4, 6, 8),
    "heads": lambda y, p: y.flatten(2).view(y.shape[0], 2, 4, -1),
    "view of some samples": lambda y, p: p.permute(0, 2, 3, 1).reshape(-1, 8).view(2, -1, 6, 8),
    "view by the number of samples": lambda y, p: p.flatten(2).view(p.shape[0], 8, y.shape[0], -1),
    "view by a number that agrees": lambda y, p: p.flatten(2).view(2, 8, 12 * y.shape[0]),
    "view with an open size of one": lambda y, p: p.flatten(2).view(p.shape[0], 8, -1, 24),
    "view of one row": lambda y, p: p.mean(2, True).flatten(2).unflatten(2, (2, -1)),
    "unsqueeze": lambda y, p: p.unsqueeze(2),
    "unsqueeze at the end": lambda y, p: y.unsqueeze(-1),
    "squeeze": lambda y, p: p.mean(2, True).squeeze(2),
    "squeeze one of two": lambda y, p: p.mean((2, 3), True).squeeze(2),
    "squeeze another length": lambda y, p: p.squeeze(2),
    "squeeze all": lambda y, p: p.mean(2, True).squeeze(),
    "select": lambda y, p: p[:, :, 1],
    "unbind": lambda y, p: p.unbind(2)[0],
    "slice": lambda y, p: p[:, :, 1:3],
    "narrow": lambda y, p: p.narrow(2, 1, 2),
    "slice of an open axis": lambda y, p: pairs(y, p)[:, :, 1:],
    "chunk of an open axis": lambda y, p: pairs(y, p).chunk(2, 2)[0],
    "pad of an open axis": lambda y, p: F.pad(pairs(y, p), (1, 1)),
    "split": lambda y, p: p.split(2, 2)[0],
    "chunk": lambda y, p: p.chunk(2, 3)[0],
    "pad": lambda y, p: F.pad(p, (1, 1, 0, 0)),
    "pad positions": lambda y, p: F.pad(y, (1, 1, 0, 0)),
    "cat of channels": lambda y, p: torch.cat([p, p], 1),
    "cat of samples": lambda y, p: torch.cat([p, p], 0),
    "cat of positions": lambda y, p: torch.cat([y, y], 2),
    "met by fewer axes": lambda y, p: p * p.mean((0, 1)),
    "met by more axes": lambda y, p: p.mean((0, 1)) * p,
    "met by one axis": lambda y, p: pairs(y, p) * p.flatten(2).mean((0, 1))[:, None],
    "met by an open axis": lambda y, p: pairs(y, p) * y.flatten(2).mean((0, 1)),
    "met by one position": lambda y, p: y.mean((2, 3), True) * y.mean((2, 3), True),
    "softmax": lambda y, p: p.softmax(-1),
    "sum": lambda y, p: p.sum(2),
    "sum and keep": lambda y, p: p.sum(2, True),
    "sum positions": lambda y, p: y.sum(-1, True),
    "sum open positions": lambda y, p: pairs(y, p).sum(2),
    "sum all": lambda y, p: p.sum() + p,
    "sum all and keep": lambda y, p: p.sum((), keepdim=True),
    "sum a number": lambda y, p: p.sum().sum(0) + p,
    "max of all": lambda y, p: p.max() + p,
    "sum channels": lambda y, p: p.sum(1),
    "amax": lambda y, p: p.amax((2, 3)),
    "max": lambda y, p: p.max(2)[0],
    "variance": lambda y, p: y.var(2, keepdim=True),
    "product": lambda y, p: p.flatten(2).mT @ p.flatten(2),
    "product with positions": lambda y, p: p.flatten(2).mT @ y.flatten(2),
    "positions in a product": lambda y, p: y.flatten(2).mT @ p.flatten(2),
    "product of matrices": lambda y, p: p.mean((0, 1)) @ p.mean((0, 1)).mT,
    "product per channel": lambda y, p: p.mT @ p,
    "attention": lambda y, p: F.scaled_dot_product_attention(p, p, p),
    "expand nothing": lambda y, p: p.mean(2, True).expand(-1, -1, -1, -1),
    "expand as positions": lambda y, p: y.mean(2, True).expand_as(y),
    "einsum": lambda y, p: torch.einsum("bchw,bcij->bwcij", p, y),
    "einsum by numbers of axes": lambda y, p: torch.einsum(p, [0, 1, 2, 3], y, [0, 1, 4, 5], [0, 3, 4, 5]),
    "einsum of a broadcast": lambda y, p: torch.einsum("...w,cw", p.mean((1, 2)), p[0, :, 0]),
    "einsum of a length of one": lambda y, p: torch.einsum("bchw,bcij->bchi", p, y.mean(2, True)),
    "average pool": lambda y, p: F.avg_pool2d(p, 2),
    "pool of positions": lambda y, p: F.max_pool2d(y, 5),
    "pool to one": lambda y, p: F.adaptive_avg_pool2d(y, 1),
    "pool to one size": lambda y, p: F.adaptive_avg_pool1d(y.flatten(2), 4),
    "pool one image": lambda y, p: F.adaptive_avg_pool2d(y.mean(0), (4, 6)),
    "pool in space": lambda y, p: F.adaptive_avg_pool3d(y[:, :, None], (1, 3, 2)),
    "pool again": lambda y, p: F.adaptive_max_pool2d(p, (2, 3)),
    "flip and roll": lambda y, p: p.flip(2).roll(1, 3),
    "contiguous": lambda y, p: p.mT.contiguous(),
    "layer norm": lambda y, p: F.layer_norm(p, (4, 6)),
    "group norm": lambda y, p: F.group_norm(p, 2),
    "cumsum": lambda y, p: p.cumsum(2),
    "types": lambda y, p: p.double().float(),
}


class Tiles(nn.Linear):
    def forward(self, x):
        return super().forward(x).transpose(1, 2).view(x.shape[0], 8, x.shape[0], -1)


# Of the layers of a network `s`, too.
IN_LAYERS = {
    "linear": lambda s, y, p: s.mix(p.permute(0, 2, 3, 1)),
    "linear of two rows": lambda s, y, p: s.mix(p[:, :, 1:3].permute(0, 2, 3, 1)),
    "linear with samples between": lambda s, y, p: s.mix(y[: y.shape[0] - 1].permute(2, 0, 3, 1)),
    "einsum with a buffer": lambda s, y, p: torch.einsum("bchw,hk->bckw", p, s.table),
    "code of a layer's own": lambda s, y, p: s.tiles(p.flatten(2).mT),
    "view by the size of a buffer": lambda s, y, p: p.flatten(2).view(p.shape[0], 8, s.table.shape[0], -1),
}
# What is the same, but is not known to be: the analysis is cautious there, and may guard more than it must.
CAUTIOUS = {
    "cat": (lambda y, p: torch.cat([p, p], 2), {2}),
    "filter": (lambda y, p: F.conv2d(p, FILTER.to(p)), {1}),
    "stack": (lambda y, p: torch.stack([p, p], 2), {2, 3, 4}),
    "expand": (lambda y, p: p.mean(2, True).expand(-1, -1, 5, -1), {2}),
    "view as a number": (lambda y, p: p.mean((0, 2, 3))[:1].reshape(()), {0}),
    "met by another number of samples": (lambda y, p: p.mean(0, True) * p[: y.shape[0] - 1], {2, 3}),
    "expand as": (lambda y, p: p.mean(2, True).expand_as(p), {2}),
    "unflatten at a computed axis": (lambda y, p: p.flatten(2).unflatten(p.dim() - 2, (3, 8)), {2, 3}),
    "pool of one axis": (lambda y, p: F.adaptive_avg_pool2d(y, (None, 3)), {3}),
    "narrow by an image": (lambda y, p: p.narrow(3, 0, y.shape[2] // 5), {2}),
    "pool by an image": (lambda y, p: F.adaptive_avg_pool2d(y, (2, y.shape[2] // 5)), {2}),
    "windows": (lambda y, p: p.unfold(2, 2, 1), {2, 3, 4}),
    "repeat": (lambda y, p: p.repeat(1, 1, 2, 1), {2, 3}),
    "strides": (lambda y, p: p.as_strided((2, 8, 4, 6), (192, 24, 6, 1)), {0, 1}),
    "strides of other sizes": (lambda y, p: p.as_strided((2, 8, 4, 5), (192, 24, 6, 1)), {0, 1, 2, 3}),
    "strides of a size by chance": (lambda y, p: p.as_strided((2, 8, 4, y.shape[2] - 4), (2, 2, 2, 1)), {0, 1, 2}),
    "resize": (lambda y, p: F.interpolate(p, size=(8, 9)), {2, 3}),
    "index": (lambda y, p: p[:, :, torch.tensor([0, 2])], {2, 3}),
}


def said_and_true(operation):
    """Yield ``(node, axis, is fixed by the analysis, is the same)`` of all axes without channels."""

    def forward(s, x):
        y = s.a(x)
        return operation(s, y, F.adaptive_avg_pool2d(y, (4, 6))).square()

    examples = [torch.zeros(size) for size in SIZES]
    with lengths_told() as told:
        net = Net(forward, a=conv(3, 8), mix=linear(8, 8), tiles=Tiles(8, 8))
        net.register_buffer("table", torch.zeros(4, 5))
        module = fxprune.couple(net.eval(), examples[0]).graph_module
    runs = runs_at(module, *examples)
    for node in module.graph.nodes:
        tensor, labels = told.get(node.name, (None, None))
        sizes = [run.env[node].shape for run in runs if isinstance(run.env.get(node), torch.Tensor)]
        if tensor is None or len(sizes) < 2 or sizes[0] != tensor.shape:
            continue
        label = labels.of(tensor)
        for axis, lengths in enumerate(zip(*sizes, strict=True)):
            if label.axes[axis] is None:
                said = bool(label.factors) and is_fixed(label.factors[axis])
                assert not label.factors or abs(math.prod(label.factors[axis])) == lengths[0]
                yield node.name, axis, said, lengths[0] == lengths[1]


def without_layers(operation):
    return lambda s, y, p: operation(y, p)


EXACT = {name: without_layers(operation) for name, operation in OPERATIONS.items()} | IN_LAYERS


@pytest.mark.parametrize("name", EXACT)
def test_lengths_that_are_the_same_at_all_sizes_are_fixed(name):
    told = list(said_and_true(EXACT[name]))
    assert told and all(said == true for *_, said, true in told), told


@pytest.mark.parametrize("name", CAUTIOUS)
def test_lengths_that_nothing_tells_are_open(name):
    operation, axes = CAUTIOUS[name]
    told = list(said_and_true(without_layers(operation)))
    assert {axis for _, axis, said, true in told if said != true} == axes
    assert all(true for *_, said, true in told if said), told


def test_an_einsum_that_names_its_axes_by_numbers_is_coupled():
    net = Net(lambda s, x: s.b(torch.einsum(s.a(x), [0, 1, 2, 3], [0, 1])), a=conv(3, 8), b=linear(8, 4)).eval()
    assert fxprune.couple(net, torch.rand(2, 3, 4, 4)).groups["a.weight"].width == 8
