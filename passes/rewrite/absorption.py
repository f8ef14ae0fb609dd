"""Move factors of products, and of what layers read, into weights, where that is exact.

The graph of a narrow network multiplies the product of queries and keys by the size m of its clusters. A network of
the same class that is built narrow does not. It also scales by its own head dim d', where the wide one scales by d:
``(q . k) m d^-1/2 = (r q . k) d'^-1/2`` with ``r = m (d' / d)^1/2``. With r in the weights both compute the same. What
a layer reads whose weight is also a table of embeddings is multiplied by m, which fits into the norm in front of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune.passes.merge import doubled

from .operands import OVER, TIMES, Maker, maker_of, moves, table_of
from .sums import FACTOR, SHARE, Factor

# Those that have no terms but products of their operands.
_PRODUCTS = (operator.matmul, torch.matmul, torch.bmm, torch.einsum, "matmul", "bmm")


def absorb_factors(module: fx.GraphModule, values: Mapping[fx.Node, Any]) -> int:
    """Move the factors of products from a narrow graph into its weights, in place, where exact.

    Returns:
        How many factors moved; the others stay in the graph.
    """
    noted = [node for node in module.graph.nodes if FACTOR in node.meta]
    for node in noted:
        _absorb(module, node, node.meta[FACTOR], values)
    module.recompile()
    return len(noted) - sum(FACTOR in node.meta for node in module.graph.nodes)


def _absorb(module: fx.GraphModule, node: fx.Node, factor: Factor, values: Mapping[fx.Node, Any]) -> None:
    if factor.of_input:
        (layer,) = node.users
        if (rows := maker_of(module, node, layer, values)) is not None:
            _scale(rows, factor.size)
            node.replace_all_uses_with(node.args[0], propagate_meta=False)  # type: ignore[arg-type]
            module.graph.erase_node(node)
        return
    fused = node.target is F.scaled_dot_product_attention
    product = node if fused else node.args[0]
    assert isinstance(product, fx.Node)
    if not fused and (share := _share_behind(module, product, factor)) is not None:
        for made in (share, node):
            _drop_factor(module, made)
        return
    found = (maker_of(module, each, product, values) for each in product.args[:2] if isinstance(each, fx.Node))
    factors = product.args if product.target in _PRODUCTS else ()
    tables = (table_of(module, each, product) for each in factors if isinstance(each, fx.Node))
    rows = next((each for each in (*found, *tables) if each is not None), None)
    if rows is None:
        return
    if fused:
        _scale(rows, _restore_scale(node, factor))
        return
    scaling = _scaling_of(module, product, node, factor.wide_dim)
    ratio = 1.0 if scaling is None else (factor.narrow_dim / factor.wide_dim) ** 0.5
    if scaling is not None:
        _rescale(scaling, 1 / ratio)
    _scale(rows, factor.size * ratio)
    _drop_factor(module, node)


def _restore_scale(node: fx.Node, factor: Factor) -> float:
    """Give a fused product its scale without the factor; return the factor of its rows."""
    scale = node.kwargs["scale"]
    assert isinstance(scale, (int, float))
    own = math.isclose(scale / factor.size, factor.wide_dim**-0.5, rel_tol=1e-6)
    new = factor.narrow_dim**-0.5 if own else scale / factor.size
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "scale"}
    if not factor.by_default:
        node.kwargs = {**node.kwargs, "scale": new}
    node.meta.pop(FACTOR)
    return scale / new


def _drop_factor(module: fx.GraphModule, node: fx.Node) -> None:
    """Replace a product with a factor by its first operand."""
    bare = node.args[0]
    assert isinstance(bare, fx.Node)
    node.replace_all_uses_with(bare, propagate_meta=False)
    bare.meta = {key: value for key, value in node.meta.items() if key not in (FACTOR, SHARE)}
    module.graph.erase_node(node)


def _share_behind(module: fx.GraphModule, product: fx.Node, factor: Factor) -> fx.Node | None:
    """Find the number of a softmax over merged channels that the factor of a product cancels.

    A softmax over m times fewer channels gives each m times as much, and the sum over them has m times fewer terms.
    """
    for operand in product.args:
        node = operand
        while isinstance(node, fx.Node) and len(node.users) == 1 and node.args:
            if SHARE in node.meta:
                return node if math.isclose(node.meta[SHARE] * factor.size, 1.0, rel_tol=1e-12) else None
            if not moves(module, node) and not _drops(module, node):
                break
            node = node.args[0]  # type: ignore[assignment]
    return None


def _drops(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.Dropout
    return node.target in (F.dropout, torch.dropout)


def _scaling_of(module: fx.GraphModule, product: fx.Node, scaled: fx.Node, wide_dim: int) -> fx.Node | None:
    """Find the call that multiplies an operand or the product by ``wide_dim ** -0.5``, or None."""
    chain: list[fx.Node] = []
    for start in product.args[:2]:
        node = start
        # Behind anything else begins another product, which may be scaled by the same number.
        while isinstance(node, fx.Node) and len(node.users) == 1 and moves(module, node):
            chain.append(node)
            node = node.args[0]  # type: ignore[assignment]
    if len(scaled.users) == 1:
        chain.append(next(iter(scaled.users)))
    for node in chain:
        if node.target in TIMES + OVER and len(node.args) == 2 and isinstance(node.args[1], (int, float)):
            number = node.args[1] if node.target in TIMES else 1 / node.args[1]
            if math.isclose(number, wide_dim**-0.5, rel_tol=1e-6):
                return node
    return None


def _rescale(scaling: fx.Node, ratio: float) -> None:
    number = scaling.args[1]
    assert isinstance(number, (int, float))
    scaling.args = (scaling.args[0], number * ratio if scaling.target in TIMES else number / ratio)


@torch.no_grad()
def _scale(made: Maker, ratio: float) -> None:
    for tensor, first in made.pieces:
        rows = made.rows.to(tensor.device) - first
        rows = rows[(rows >= 0) & (rows < len(tensor))]
        tensor[rows] = (doubled(tensor[rows]) * ratio).to(tensor.dtype)
