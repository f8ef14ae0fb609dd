"""Values picked, or put, where a tensor of truth values says so."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .interactions.constants import Constants
from .table import A, B, free, image, linear, tokens

A2 = f"{A}#2"


def _masked_and_put(s, y):
    z = y.mean(1).clone()
    z[torch.ones(2, dtype=torch.bool), torch.tensor([0, 3])] = 0.0
    return s.c(z)


def _masked_at(s, y):
    z = y.clone()
    z[y.mean((1, 2, 3)) > -9, torch.tensor([1])] = 2.0
    return z


def _masked_in_front(s, y):
    z, two = y.transpose(0, 1), torch.tensor(2.0)
    put = torch.index_put(z, (z > 0,), two.to(y)).index_put((y.mean((0, 2, 3)) > 0,), two.to(y), True)
    return torch.index_put_(put, (put > 1,), two.to(y)).transpose(0, 1)


def _masked(s, y):
    z = y.clone()
    z[y > 0] = 0.0
    return z


def _token_masked(s, y):
    """A learned token in place of every second one, as in masked pretraining."""
    z = y.clone()
    z[:, torch.arange(y.shape[1]) % 2 == 0] = s.t
    return z


def _masked_numbers(s, y):
    z = y.clone()
    z[:, torch.arange(8) < 3] = s.n
    return z


def _put_behind_a_mask(s, y):
    z = y.permute(2, 3, 1, 0).clone()
    z[torch.eye(*z.shape[:2]) > 0, 1:5] = 0.0
    return z.permute(3, 2, 0, 1)


def _picked_tokens(s, y):
    """A layer for the tokens that a score picks, and their share."""
    at = s.g(y)[..., 0] > 0
    z = torch.zeros_like(y)
    z[at] = s.c(y[at])
    return (z + y) * len(at.nonzero())


def _routed(s, y):
    """Experts, of which each reads the tokens whose score names it."""
    f = y.flatten(0, 1)
    out, best = torch.zeros_like(f), F.one_hot(s.g(f).argmax(1), 2)
    for place, expert in enumerate((s.c, s.d)):
        at = torch.where(best[:, place] > 0)
        out.index_add_(0, at[0], expert(f[at]))
    return out.view_as(y)


def _put_behind_an_ellipsis(s, y):
    z, mask = y.clone(), y.sum((0, 1)) > 0
    z[..., mask] = 0.0
    return z


def _put_between(s, y):
    z, mask = y.clone(), y.sum((0, 1)) > 0
    z[..., 2:6, mask] = 0.0
    return z


def _put_before_an_ellipsis(s, y):
    z, mask = y.permute(2, 3, 0, 1).clone(), y.sum((0, 1)) > 0
    z[mask, ..., None] = 0.5
    return z.permute(2, 3, 0, 1)


def _picked_behind_an_ellipsis(s, y):
    sums = y.sum((0, 1))
    return y + y[..., None, sums > sums.mean()].sum((2, 3))[..., None, None]


# fmt: off
image("slice behind a mask of two axes", _put_behind_a_mask, {B: 6}, frozen="behind a mask")
image("one number by a mask", _masked, {A: 8, B: 6})
image("one number by a mask over channels in front", _masked_in_front, {A: 8, B: 6})
tokens("one vector by a mask of tokens", _token_masked, {"t": 8}, t=free(8))
image("one number by a mask and an index", _masked_at, {B: 6}, frozen="index picks")
image("numbers by a mask over channels", _masked_numbers, {A: 3, A2: 5, B: 6}, n=free(8, 8), fixed=True)
tokens("tokens by a stored mask", lambda s, y: torch.where(s.k.m, y, s.t).masked_fill(~s.k.m, 0.5) * s.k.m, {"t": 8},
       fixed=True, t=free(8), k=Constants(m=torch.arange(5)[:, None] > 1))
tokens("one of two by their own numbers", lambda s, y: torch.where(y > 0, y, s.c(y)), {A: 8}, c=linear(8, 8))
tokens("a stored mask of channels", lambda s, y: s.c(y * s.k.m).relu(), {"c.weight": 6}, out=6, c=linear(8, 6),
       k=Constants(m=torch.arange(8) > 3), frozen="meets positions that carry no channels")
tokens("a mask and places take a number", _masked_and_put, {"c.weight": 6}, out=6, fixed=True, c=linear(8, 6),
       frozen="an index picks positions")
tokens("tokens that a score picks", _picked_tokens, {A: 8}, c=linear(8, 8), g=linear(8, 1))
tokens("experts that a score picks", _routed, {A: 8}, c=linear(8, 8), d=linear(8, 8), g=linear(8, 2),
       frozen="argmax over channels")
image("channels that values pick", lambda s, y: y * y[y > 0].sum(), {B: 6}, frozen="an index picks positions")
image("put behind an ellipsis by a mask of two axes", _put_behind_an_ellipsis, {A: 8, B: 6})
image("put between an ellipsis and a mask of two axes", _put_between, {B: 6}, frozen="behind a mask")
image("put before an ellipsis by a mask of two axes", _put_before_an_ellipsis, {A: 8, B: 6})
image("pick behind an ellipsis and a new axis by a mask", _picked_behind_an_ellipsis, {A: 8, B: 6})
