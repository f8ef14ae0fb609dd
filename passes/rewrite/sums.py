"""A sum over merged channels lacks a power of the cluster size; the rewrite restores it."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from fxprune.errors import RewriteError

from .places import length_in
from .site import Site, standing_for

_MATMULS = frozenset({operator.matmul, "matmul", "bmm", torch.matmul, torch.bmm})
# The key in a node's meta that holds the factor of a product of two activations, or of a layer's input.
FACTOR = "fxprune_factor"
# The same for the number that a softmax over merged channels is multiplied by.
SHARE = "fxprune_share"
_SOFTMAXES = frozenset({"softmax", torch.softmax, F.softmax})


@dataclass(frozen=True)
class Factor:
    """The factor that a sum of products lacks, and the channels that it sums over.

    Attributes:
        size: of the clusters; the factor itself.
        wide_dim: channels before the merge.
        narrow_dim: channels after it.
        by_default: whether the product is scaled by the square root of its own channels.
        of_input: whether it multiplies what a layer reads, not what a product returns.
    """

    size: float
    wide_dim: int
    narrow_dim: int
    by_default: bool
    of_input: bool


def _factor(site: Site, size: float, *, by_default: bool = False, of_input: bool = False) -> Factor:
    wide = site.shape_of(0)
    return Factor(size, wide.sizes[-1], length_in(site, wide, -1), by_default, of_input)


def multiplicity(site: Site) -> float:
    """prod(cluster size ** power) over the axes that the call sums over; 1 without such an axis."""
    factor: float = 1
    for codes, power in site.coupling.nodes[site.node.name].products:
        sizes = np.unique(site.plan.sizes[codes])
        if len(sizes) > 1:
            raise RewriteError(f"node `{site.node}` sums over clusters of different sizes: {sizes.tolist()}.")
        factor *= int(sizes[0]) if power == 1 else float(sizes[0]) ** power
    return factor


def scaled_input(site: Site) -> fx.Node | None:
    """Multiply what a layer reads by the size of the clusters; None: by 1."""
    size = multiplicity(site)
    if size == 1:
        return None
    made = site.call(operator.mul, site.args[0], size)
    made.meta[FACTOR] = _factor(site, size, of_input=True)
    return made


def multiplied(site: Site) -> fx.Node | None:
    """matmul, einsum, sum, norm, softmax: multiply by a power of the cluster size."""
    size = multiplicity(site)
    if size == 1:
        return None
    product = site.graph.create_node(site.node.op, site.node.target, site.args, site.kwargs, f"{site.node.name}_narrow")
    made = standing_for(site.node, site.call(operator.mul, product, size))
    if site.kind in _MATMULS:
        made.meta[FACTOR] = _factor(site, size)
    if site.kind in _SOFTMAXES:
        made.meta[SHARE] = size
    return made


def shifted(site: Site) -> fx.Node | None:
    """log_softmax, logsumexp: add the logarithm of the factor that a sum would need."""
    size = multiplicity(site)
    if size == 1:
        return None
    logs = site.graph.create_node(site.node.op, site.node.target, site.args, site.kwargs, f"{site.node.name}_narrow")
    return standing_for(site.node, site.call(operator.add, logs, math.log(size)))


def corrected(site: Site) -> fx.Node | None:
    """var, std: divide the correction c by the cluster size m, as (n m - c) / m = n - c / m."""
    size = multiplicity(site)
    if size == 1:
        return None
    given, options = list(site.args[1:]), dict(site.kwargs)
    if given and not isinstance(given[0], bool):
        options["dim"] = given.pop(0)
    options |= dict(zip(("unbiased", "keepdim"), given, strict=False))
    unbiased = options.pop("unbiased", True)
    correction = options.pop("correction", None)
    if correction is None:
        correction = int(unbiased)
    target = site.kind if callable(site.kind) else None  # an overload may take no correction
    return site.copy(site.args[:1], {**options, "correction": correction / size}, target)


def attention(site: Site) -> fx.Node | None:
    """Scaled dot product: write out the scale of the wide head dim, times the factor."""
    size, query = multiplicity(site), site.shape_of(0)
    if query.axes[-1] is None and size == 1:
        return None
    scale = site.kwargs.get("scale")
    by_default = scale is None
    if scale is None:
        scale = query.sizes[-1] ** -0.5
    if isinstance(scale, fx.Node):
        scale = scale if size == 1 else site.call(operator.mul, scale, size)
    else:
        scale = scale * size
    made = site.copy(site.args, {**site.kwargs, "scale": scale})
    if not isinstance(scale, fx.Node):
        made.meta[FACTOR] = _factor(site, size, by_default=by_default)
    return made
