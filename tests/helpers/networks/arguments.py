"""Networks whose arguments and results are of every kind, and inputs for them."""

from __future__ import annotations

import collections
import dataclasses

import torch
import torch.nn.functional as F
from samples import conv, linear
from torch import nn

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[1, 6, 2], [0, 3, 3]])
MASK = torch.tensor([[True, True, False], [True, False, False]])
Pair = collections.namedtuple("Pair", "left right")


@dataclasses.dataclass
class Found:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


class Both(nn.Module):
    """Two images that meet, with arguments of every kind between and after them."""

    def __init__(self, dress=lambda h, y: y):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 8), conv(5, 8), conv(8, 6), linear(6, 4)
        self.dress = dress

    def forward(self, x, scale=2.0, y=None, *, mode="sum", mask=None):
        h = self.a(x) * scale
        if y is not None:
            h = h + self.b(y) if mode == "sum" else h * self.b(y)
        if mask is not None:
            h = h * mask[:, None, None, None]
        h = self.c(h.relu())
        return self.dress(h, self.head(h.mean((2, 3))))


class Tokens(nn.Module):
    """Token ids and a mask."""

    def __init__(self):
        super().__init__()
        self.table, self.norm, self.a, self.b = nn.Embedding(7, 8), nn.LayerNorm(8), linear(8, 16), linear(16, 8)
        self.head = linear(8, 3)

    def forward(self, ids, mask):
        h = self.table(ids)
        h = h + self.b(F.gelu(self.a(self.norm(h))))
        kept = mask.unsqueeze(-1).to(h.dtype)
        return {"pooled": self.head((h * kept).sum(1) / kept.sum(1).clamp(min=1)), "ids": ids, "none": None}


class Pyramid(nn.Module):
    """A list and a dict of features as arguments."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(5, 8), conv(8, 4)

    def forward(self, features, extra):
        return [self.c(self.a(features[0]) + self.b(extra["y"]) * extra["weight"]) for _ in features]


class WeightGiven(nn.Module):
    """An input that is used as a weight: what it reads may not merge."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = linear(8, 8), linear(8, 6), linear(6, 8)

    def forward(self, x, weight):
        h = self.a(x).relu()
        return F.linear(h, weight[0]), self.c(self.b(h).relu())


class Pairs(nn.Module):
    """One dict goes in; tuples of dicts of lists come out."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(5, 8), conv(8, 4)

    def forward(self, batch):
        h = self.c((self.a(batch["x"]) + self.b(batch["more"]["y"])).relu())
        return ((h.mean((2, 3)),), {"maps": [h, (h.amax((2, 3)),)]})


class KeywordOnly(nn.Module):
    """A number that a layer is called with, and an argument that may be absent."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 4)

    def forward(self, *, pixels, stride: int, mask=None):
        h = self.a(F.max_pool2d(pixels, 2, stride)).relu()
        return {"out": self.b(h if mask is None else h * mask[:, None, None, None])}


class Outputs(collections.OrderedDict):
    """Keys that are attributes as well."""

    def __getattr__(self, name):
        return self[name] if name in self else super().__getattribute__(name)


def returns(dress):
    return Both(dress), {"x": X, "y": Y}


NETWORKS = {
    "a tensor": (Both(), X),
    "in order": (Both(), (X, 2.0, Y)),
    "in order, with None": (Both(), (X, 0.5, None)),
    "by name": (Both(), {"x": X, "y": Y}),
    "by name, out of order": (Both(), {"y": Y, "x": X}),
    "by name only": (Both(), {"x": X, "mask": torch.rand(2), "mode": "product", "y": Y}),
    "token ids and a mask": (Tokens(), {"ids": IDS, "mask": MASK}),
    "token ids in order": (Tokens(), (IDS, MASK)),
    "a list and a dict": (Pyramid(), ([X, X], {"y": Y, "weight": 2})),
    "an input used as a weight": (WeightGiven(), (torch.randn(2, 4, 8), torch.randn(2, 5, 8))),
    "a tuple": returns(lambda h, y: (y, h)),
    "a list with None": returns(lambda h, y: [y, None, h]),
    "a nest": returns(lambda h, y: {"y": y, "more": (h, {"mean": h.mean()})}),
    "an ordered dict": returns(lambda h, y: collections.OrderedDict(out=y, aux=h)),
    "a named tuple": returns(lambda h, y: Pair(y, h)),
    "a nest in and out": (Pairs(), ({"x": X, "more": {"y": Y}},)),
    "by keyword only, with a number": (KeywordOnly(), {"pixels": X, "stride": 2, "mask": torch.rand(2)}),
    "by keyword only, others left out": (KeywordOnly(), {"pixels": X, "stride": 1}),
    "a dict with a type": returns(lambda h, y: Outputs(logits=y, hidden=h)),
    "None inside": returns(lambda h, y: Pair(None, (y, {"h": (None, h)}))),
    "a dataclass": returns(lambda h, y: Found(y)),
    "the same twice": returns(lambda h, y: (y, y, y[:, :2])),
    "numbers": returns(lambda h, y: (y, 3, h.shape[1])),
    "a view of another": returns(lambda h, y: (h.flatten(1), h)),
}
