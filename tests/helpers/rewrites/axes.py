"""Describe the axes of what a call makes of a small network's channels."""

from __future__ import annotations

import torch
from samples import Net, conv, linear
from torch import nn

import fxprune
from fxprune.passes.rewrite.axes import AxisOrders

LETTERS = {"channels": "c", "positions": "p", "both": "b"}
ENDS = {"front": "<", "behind": ">", "": ""}


def axes_of(op):
    """Describe the axes of what ``op`` makes of 8 channels of 2 images of 4 x 3.

    Of each, its length is told for images [b, _, h, w], and behind a colon what lies in an axis of channels.
    """
    net = Net(
        lambda s, x: op(s, s.a(x)).sum(),
        a=conv(3, 8),
        rows=linear(1, 4),
        up=nn.ConvTranspose2d(1, 4, 1),
        recurrent=nn.LSTM(8, 5, batch_first=True),
        pad=nn.ReplicationPad1d(1),
    ).eval()
    orders = AxisOrders(fxprune.couple(net, torch.rand(2, 3, 4, 3)))
    given = list(orders.coupling.graph_module.graph.find_nodes(op="call_method", target="sum"))[-1].all_input_nodes[0]
    return ", ".join(described(orders, given, dim) for dim in range(len(orders.sources.shape(given).sizes)))


def described(orders, node, dim):
    length = orders.lengths.of(node, dim)
    factors = [letter(name) + (f"^{power}" if power != 1 else "") for name, power in length.powers]
    factors += [str(length.number)] * (length.number != 1 or not factors)
    text = "*".join(sorted(factors))
    if orders.sources.shape(node).axes[dim] is None:
        return text
    order = orders.of(node, dim)
    parts = [LETTERS[part.kind] + str(orders.size(part)) + ENDS[part.end] for part in order or ()]
    return f"{text}: {' '.join(parts) if order else '?'}"


def letter(name):
    """Name an unknown length by the axis of the images that it is."""
    node, dim = name if isinstance(name, tuple) else (None, 0)
    is_batch = isinstance(node, torch.fx.Node) and node.op == "placeholder" and dim == 0
    return "b" if is_batch else {2: "h", 3: "w"}.get(dim, "?") if str(node) == "a" else "?"
