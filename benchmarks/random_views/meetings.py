"""Operations in which flattened axes meet, or that take them through what moves no number."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.random_networks import Draw, Unsuited

from .lengths import Pool
from .operations import Step, operation


@operation()
def ones(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Add or remove an axis of length 1, or expand a new one."""
    rank = pool[-1].dim()
    at = draw.index(rank + 1)
    kind = draw.choice(("unsqueeze", "None", "squeeze", "expand"))
    if kind == "squeeze":
        dim = at % rank
        return f"squeeze({dim})", lambda s, p: p[-1].squeeze(dim)
    if kind == "expand":
        return "expand(2, ...)", lambda s, p: p[-1].expand(2, *p[-1].shape)
    return (
        ("[None]", lambda s, p: p[-1][None])
        if kind == "None"
        else (f"unsqueeze({at})", lambda s, p: p[-1].unsqueeze(at))
    )


@operation()
def mantissa(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Take one of two results of a function that changes each number by itself."""
    return "frexp()[0]", lambda s, p: torch.frexp(p[-1])[0]


@operation(often=2)
def meet(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Add an earlier tensor, flattened in any order to the same shape, or multiply by it."""
    shape = pool[-1].shape
    place = draw.choice([place for place, x in enumerate(pool) if x.numel() == pool[-1].numel() and place])
    rank = pool[place].dim()
    order = list(range(rank))
    one, other = draw.index(rank), draw.index(rank)
    order[one], order[other] = order[other], order[one]
    moved = pool[place].permute(*order)
    first = next((at for at, (a, b) in enumerate(zip(moved.shape, shape)) if a != b), len(shape) - 1)
    joined = rank - len(shape)
    if joined < 0 or moved.flatten(first, min(first + joined, rank - 1)).shape != shape:
        raise Unsuited
    name, add_up = draw.choice((("+", torch.add), ("*", torch.mul)))
    text = f"{name} #{place}.permute({', '.join(map(str, order))}).flatten({first}, {first + joined})"
    return text, lambda s, p: add_up(p[-1], p[place].permute(*order).flatten(first, first + joined))
