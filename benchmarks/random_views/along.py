"""List operations along one axis that may hold positions beside channels, and reads of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from benchmarks.random_networks import Draw, Unsuited

from .lengths import Pool, length
from .operations import WIDTHS, Step, add, operation


@operation()
def parts(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Cut an axis into equal parts: a gate of halves, one part, or all in another order."""
    dim, count = draw.index(pool[-1].dim()), draw.choice((2, 3, 4))
    if pool[-1].shape[dim] % count:
        raise Unsuited
    if count == 2 and draw.whether():
        return f"glu({dim})", lambda s, p: F.glu(p[-1], dim)
    if draw.whether():
        at = draw.index(count)
        return f"chunk({count}, {dim})[{at}]", lambda s, p: p[-1].chunk(count, dim)[at]
    return f"chunk({count}, {dim}), turned", lambda s, p: torch.cat(p[-1].chunk(count, dim)[::-1], dim)


@operation()
def stack(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Stack the last tensor and any of its shape, or the two parts of complex numbers of them."""
    at = draw.index(pool[-1].dim() + 1)
    place = draw.choice([place for place, x in enumerate(pool) if x.shape == pool[-1].shape])
    if draw.whether():
        return f"stack([., #{place}], {at})", lambda s, p: torch.stack([p[-1], p[place]], at)
    return (
        f"view_as_real(complex(., #{place})) on {at}",
        lambda s, p: torch.view_as_real(torch.complex(p[-1], p[place])).movedim(-1, at),
    )


@operation()
def order(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Order the places of an axis by what they hold, or take the largest of them."""
    dim = draw.index(pool[-1].dim())
    most = draw.between(1, pool[-1].shape[dim])
    return draw.choice(
        (
            (f"sort({dim})[0]", lambda s, p: p[-1].sort(dim)[0]),
            (f"topk({most}, {dim})[0]", lambda s, p: p[-1].topk(most, dim)[0]),
            (f"cummax({dim})[0]", lambda s, p: p[-1].cummax(dim)[0]),
            (f"gather({dim}, argsort)", lambda s, p: p[-1].gather(dim, p[-1].argsort(dim))),
            (f"amax({dim})", lambda s, p: p[-1].amax(dim)),
            (f"logsumexp({dim})", lambda s, p: p[-1].logsumexp(dim, keepdim=True)),
            (f"flip({dim})", lambda s, p: p[-1].flip(dim)),
        )
    )


@operation()
def picked(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Take one place of an axis, each second one, or all from one on."""
    dim = draw.index(pool[-1].dim())
    at, before = draw.index(pool[-1].shape[dim]), (slice(None),) * dim
    name, item = draw.choice(((f"{at}", at), (f"{at}:", slice(at, None)), ("::2", slice(None, None, 2))))
    return f"[{':, ' * dim}{name}]", lambda s, p: p[-1][*before, item]


@operation()
def repeated(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Repeat an axis as often as a size says, as a whole or each place of it."""
    dim = draw.index(pool[-1].dim())
    times = length(draw, pool, draw.choice((2, 3, pool[0].shape[2])))
    if draw.whether():
        return f"repeat_interleave({times}, {dim})", lambda s, p: p[-1].repeat_interleave(times.of(p), dim)
    rank = pool[-1].dim()
    return (
        f"repeat({times} on {dim})",
        lambda s, p: p[-1].repeat(*(times.of(p) if at == dim else 1 for at in range(rank))),
    )


@operation()
def pooled(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Read the last axis, or the last two, as space: pooled, or in windows."""
    if pool[-1].dim() == 3:
        width, made = pool[-1].shape[1], draw.choice(WIDTHS)
        if draw.whether():
            name = add(net, nn.Conv1d(width, made, 3, padding=1))
            return f"conv1d({width}, {made})", lambda s, p: getattr(s, name)(p[-1])
        return "max_pool1d(2, 1)", lambda s, p: F.max_pool1d(p[-1], 2, 1)
    if pool[-1].dim() == 4:
        return draw.choice(
            (
                ("avg_pool2d((2, 1))", lambda s, p: F.avg_pool2d(p[-1], (2, 1))),
                ("adaptive_avg_pool2d((2, 1))", lambda s, p: F.adaptive_avg_pool2d(p[-1], (2, 1))),
                ("unfold((2, 1))", lambda s, p: F.unfold(p[-1], (2, 1))),
            )
        )
    raise Unsuited


@operation(often=2)
def joined_and_read(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Flatten tensors behind the batch, join them and read the row by a weight.

    Where one is longer than at the example, another one may be shorter.
    """
    joined = [draw.index(len(pool)), len(pool) - 1][draw.index(2) :]
    if any(pool[place].dim() < 2 or len(pool[place]) != len(pool[-1]) for place in joined):
        raise Unsuited
    width, made = sum(pool[place][0].numel() for place in joined), draw.choice(WIDTHS)
    if width > 1_000:
        raise Unsuited
    name = add(net, nn.Linear(width, made))
    rows = [pool[place].dim() for place in joined]

    def run(s: nn.Module, p: Pool) -> Tensor:
        found = [p[place] if rank == 2 else p[place].flatten(1) for place, rank in zip(joined, rows)]
        row: Tensor = getattr(s, name)(torch.cat(found, 1) if len(found) > 1 else found[0])
        return row

    return f"linear({width}, {made}) of {' and '.join(f'#{place}' for place in joined)}, flattened", run


@fx.wrap
def own_turned(x: Tensor) -> Tensor:
    """Turn the last axis."""
    return x.flip(-1)


@fx.wrap
def own_scaled(x: Tensor) -> Tensor:
    """Divide by the mean over the last axis."""
    return x / (1 + x.mean(-1, keepdim=True) ** 2)


@operation()
def own(net: nn.Module, draw: Draw, pool: Pool) -> Step:
    """Call a function that capture keeps whole."""
    return draw.choice(
        (("own_turned()", lambda s, p: own_turned(p[-1])), ("own_scaled()", lambda s, p: own_scaled(p[-1])))
    )
