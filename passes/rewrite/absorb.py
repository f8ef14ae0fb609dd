"""Move the factor of a product of queries and keys into the weights, where that is exact.

The graph of a narrow network multiplies the product of queries and keys by the size m of its clusters. A network of
the same class that is built narrow does not. It also scales by its own head dim d', where the wide one scales by d:
``(q . k) m d^-1/2 = (r q . k) d'^-1/2`` with ``r = m (d' / d)^1/2``. With r in the weights both compute the same.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.common.torch_private import BatchNorm, ConvNd, hooks_of

from .sums import FACTOR, SHARE, Factor

# Calls that only move what goes in, as methods and as functions.
_MOVES = frozenset(
    {
        "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unbind", "split", "chunk", "contiguous",
        "squeeze", "unsqueeze", "movedim", "swapaxes", "split_with_sizes", "tensor_split", "narrow", "select", "clone",
        "reshape_as", "view_as",
    }
)  # fmt: skip
_READS = frozenset({"size", "dim", "numel", "shape", "dtype", "device", "ndim"})
_TIMES = (operator.mul, torch.mul, "mul")
_OVER = (operator.truediv, torch.div, "div")
_AFFINE: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d, BatchNorm,
)  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """The tensors of the network that make one operand of a product, and which of their rows."""

    tensors: tuple[Tensor, ...]
    rows: Tensor


def absorb_factors(module: fx.GraphModule, values: Mapping[fx.Node, Any]) -> int:
    """Move the factors of products from a narrow graph into its weights, in place, where exact.

    Args:
        module: a narrow network with tensors of its own.
        values: what each node returns on the meta device.

    Returns:
        How many factors moved; the others stay in the graph.
    """
    noted = [node for node in module.graph.nodes if FACTOR in node.meta]
    for node in noted:
        _absorb(module, node, node.meta[FACTOR], values)
    module.recompile()
    return len(noted) - sum(FACTOR in node.meta for node in module.graph.nodes)


def _absorb(module: fx.GraphModule, node: fx.Node, factor: Factor, values: Mapping[fx.Node, Any]) -> None:
    fused = node.target is F.scaled_dot_product_attention
    product = node if fused else node.args[0]
    assert isinstance(product, fx.Node)
    if not fused and (share := _share_behind(module, product, factor)) is not None:
        for made in (share, node):
            _drop_factor(module, made)
        return
    for operand in product.args[:2]:
        rows = _rows_of(module, operand, product, values) if isinstance(operand, fx.Node) else None
        if rows is None:
            continue
        ratio = factor.narrow_dim / factor.wide_dim
        if fused:
            scale = node.kwargs["scale"]
            assert isinstance(scale, (int, float))
            default = factor.narrow_dim**-0.5
            own = math.isclose(scale / factor.size, factor.wide_dim**-0.5, rel_tol=1e-6)
            new = default if own else scale / factor.size
            options = dict(node.kwargs)
            options["scale"] = new
            if factor.by_default:
                del options["scale"]
            node.kwargs = options
            node.meta.pop(FACTOR)
            _scale(rows, scale / new)
        else:
            scaling = _scaling_of(product, node, factor.wide_dim)
            if scaling is not None:
                _rescale(scaling, ratio**-0.5)
            _scale(rows, factor.size * (ratio**0.5 if scaling is not None else 1))
            _drop_factor(module, node)
        return


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
    for operand in product.args[:2]:
        node = operand
        while isinstance(node, fx.Node) and len(node.users) == 1 and node.args:
            if SHARE in node.meta:
                return node if math.isclose(node.meta[SHARE] * factor.size, 1.0, rel_tol=1e-12) else None
            if not _moves(module, node) and not _drops(module, node):
                break
            node = node.args[0]  # type: ignore[assignment]
    return None


def _drops(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.Dropout
    return node.target in (F.dropout, torch.dropout)


def _rows_of(module: fx.GraphModule, operand: fx.Node, product: fx.Node, values: Mapping[fx.Node, Any]) -> _Rows | None:
    """Return the rows of weights that make an operand and nothing else; None if unknown."""
    maker = operand
    while _moves(module, maker):
        if not isinstance(maker.args[0], fx.Node):
            return None
        maker = maker.args[0]
    made = values.get(maker)
    found = _affine(module, maker)
    if found is None or not isinstance(made, Tensor):
        return None
    axis, tensors = found
    length = made.shape[axis]
    positions = torch.arange(length).view([-1 if d == axis % made.dim() else 1 for d in range(made.dim())])
    try:
        seen = _follow(module, maker, positions.expand(made.shape), values)
    except Exception:  # a call that does more than move these positions
        return None
    if operand not in seen or not isinstance(seen[operand], Tensor):
        return None
    rows = seen[operand].unique()
    twice = product.args[0] is product.args[1]
    for reader in _readers(module, seen):
        others = [arg for arg in reader.all_input_nodes if arg in seen]
        if reader is product and not twice:
            others.remove(operand)
        if any(not isinstance(seen[other], Tensor) or bool(torch.isin(seen[other], rows).any()) for other in others):
            return None
    made_by = _Rows(tensors, rows)
    return made_by if _is_homogeneous(module.get_submodule(str(maker.target)), made_by) else None


def _moves(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a call only moves its first argument, or multiplies it by a number."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.Identity
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    if node.target is operator.getitem:
        return True
    if node.target in _TIMES + _OVER:
        return isinstance(node.args[1], (int, float))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _MOVES and (isinstance(node.target, str) or node.target is getattr(torch, name, None))


def _affine(module: fx.GraphModule, node: fx.Node) -> tuple[int, tuple[Tensor, ...]] | None:
    """Return the channel axis of a layer's output and its parameters; None for other layers.

    The rows of these parameters (weight and bias) scale the channels.
    """
    if node.op != "call_module" or sum(other.target == node.target for other in module.graph.nodes) > 1:
        return None
    layer = module.get_submodule(str(node.target))
    if not isinstance(layer, _AFFINE) or hasattr(layer, "parametrizations"):
        return None
    if hooks_of(layer):
        return None
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) != 1:
        return None
    tensors = tuple(layer.parameters(recurse=False))
    everywhere = module.named_parameters(remove_duplicate=False)
    names = {name for name, parameter in everywhere if any(parameter is tensor for tensor in tensors)}
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr" and not all(map(_asks, n.users))}
    if getattr(layer, "weight", None) is None or len(names) != len(tensors) or read & names:
        return None
    if isinstance(layer, BatchNorm):
        return 1, tensors
    return -len(layer.kernel_size) - 1 if isinstance(layer, ConvNd) else -1, tensors


@torch.no_grad()
def _is_homogeneous(layer: nn.Module, made: _Rows) -> bool:
    """Check that doubled rows of weight and bias double just these channels.

    A derived class may compute something else with its weights.
    """
    if isinstance(layer, ConvNd):
        return type(layer).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    layer = copy.deepcopy(layer).double().cpu().eval()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    axes = {nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    space = (1,) * next((axes[kind] for kind in type(layer).__mro__ if kind in axes), 0)
    shape = (2, weight.shape[-1], *space)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    for parameter in layer.parameters(recurse=False):
        parameter[made.rows] *= 2
    before.movedim(1, -1)[..., made.rows] *= 2
    return torch.equal(layer(x), before)


def _follow(
    module: fx.GraphModule, maker: fx.Node, positions: Tensor, values: Mapping[fx.Node, Any]
) -> dict[fx.Node, Any]:
    """Follow the channels of ``maker`` through each call that moves them.

    The values are replaced by the positions of their channels.
    """
    seen: dict[fx.Node, Any] = {maker: positions}
    for node in module.graph.nodes:
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node) or first not in seen or not _moves(module, node):
            continue

        def value(arg: fx.Node) -> Any:
            found = seen[arg] if arg in seen else values[arg]
            if isinstance(found, Tensor) and arg not in seen:
                raise ValueError("another tensor")
            return found

        if node.target in ("reshape_as", "view_as"):  # the other tensor gives its shape alone
            seen[node] = seen[first].reshape(values[node].shape)
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        if node.op == "call_module" or node.target in _TIMES + _OVER:
            seen[node] = args[0]
        elif node.op == "call_method":
            seen[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            seen[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return seen


def _readers(module: fx.GraphModule, seen: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """List the calls that do more with the channels than move them or read sizes."""
    readers = {user for node in seen for user in node.users if user not in seen}
    return [node for node in readers if not _asks(node)]


def _asks(node: fx.Node) -> bool:
    """Tell whether a call reads only the size, the type or the device of a tensor."""
    name = node.target if node.op == "call_method" else node.args[1] if node.target is getattr else None
    return name in _READS


def _scaling_of(product: fx.Node, scaled: fx.Node, wide_dim: int) -> fx.Node | None:
    """Find the call that multiplies an operand or the product by ``wide_dim ** -0.5``, or None."""
    chain: list[fx.Node] = []
    for start in product.args[:2]:
        node = start
        while isinstance(node, fx.Node) and len(node.users) == 1 and node.args:
            chain.append(node)
            node = node.args[0]  # type: ignore[assignment]
    if len(scaled.users) == 1:
        chain.append(next(iter(scaled.users)))
    for node in chain:
        if node.target in _TIMES + _OVER and len(node.args) == 2 and isinstance(node.args[1], (int, float)):
            number = node.args[1] if node.target in _TIMES else 1 / node.args[1]
            if math.isclose(number, wide_dim**-0.5, rel_tol=1e-6):
                return node
    return None


def _rescale(scaling: fx.Node, ratio: float) -> None:
    number = scaling.args[1]
    assert isinstance(number, (int, float))
    scaling.args = (scaling.args[0], number * ratio if scaling.target in _TIMES else number / ratio)


@torch.no_grad()
def _scale(made: _Rows, ratio: float) -> None:
    for tensor in made.tensors:
        rows = made.rows.to(tensor.device)
        tensor[rows] = (tensor[rows].double() * ratio).to(tensor.dtype)
