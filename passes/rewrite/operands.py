"""Follow an operand of a product to the rows of the weights that make it, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.pytorch.modules import float64_copy, named_tensors
from fxprune.pytorch.torch_private import BatchNorm, ConvNd, hooks_of, pytree

# Calls that only move what goes in, as methods and as functions.
_MOVES = frozenset(
    {
        "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unbind", "split", "chunk", "contiguous",
        "squeeze", "unsqueeze", "movedim", "swapaxes", "split_with_sizes", "tensor_split", "narrow", "select", "clone",
        "reshape_as", "view_as",
    }
)  # fmt: skip
_READS = frozenset({"size", "dim", "numel", "shape", "dtype", "device", "ndim"})
TIMES = (operator.mul, torch.mul, "mul")
OVER = (operator.truediv, torch.div, "div")
_AFFINE: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d, BatchNorm,
)  # fmt: skip


# A tensor of the network, and the number of its first row among those that a layer makes.
Piece = tuple[Tensor, int]


@dataclass(frozen=True)
class Maker:
    """The tensors of the network that make one operand of a product, and which of their rows."""

    pieces: tuple[Piece, ...]
    rows: Tensor


def maker_of(module: fx.GraphModule, operand: fx.Node, product: fx.Node, values: Mapping[fx.Node, Any]) -> Maker | None:
    """Return the rows of weights that make an operand and nothing else; None if unknown."""
    maker = operand
    while moves(module, maker):
        if not isinstance(maker.args[0], fx.Node):
            return None
        maker = maker.args[0]
    found, made = _affine(module, maker), values[maker]
    if found is None:
        return None
    axis, pieces = found
    length = made.shape[axis]
    if max(first + len(tensor) for tensor, first in pieces) != length:  # a vector of one number is broadcast
        return None
    positions = torch.arange(length).view([-1 if d == axis % made.dim() else 1 for d in range(made.dim())])
    try:
        seen = _follow(module, maker, positions.expand(made.shape), values)
    except Exception:  # a call that does more than move these positions
        return None
    if operand not in seen or not isinstance(seen[operand], Tensor):
        return None
    rows = seen[operand].unique()
    for reader in _readers(seen):
        given = pytree.tree_leaves((reader.args, reader.kwargs))
        others = [arg for arg in given if isinstance(arg, fx.Node) and arg in seen]
        if reader is product:  # what it takes twice, as keys and values, is another operand, too
            others.remove(operand)
        if any(not isinstance(seen[other], Tensor) or bool(torch.isin(seen[other], rows).any()) for other in others):
            return None
    made_by = Maker(pieces, rows)
    return made_by if _is_homogeneous(module, maker, made_by) else None


def table_of(module: fx.GraphModule, operand: fx.Node, product: fx.Node) -> Maker | None:
    """Return all rows of the table an operand is cut or resized from; None if others read it."""
    maker, reader = operand, product
    if product.args.count(operand) != 1:  # a square is no multiple
        return None
    while {user for user in maker.users if not _asks(user)} == {reader}:
        if maker.op == "get_attr":
            everywhere = list(module.named_parameters(remove_duplicate=False))
            table = dict(everywhere).get(str(maker.target))
            alone = sum(other is table for _, other in everywhere) == 1
            named = [n for n in module.graph.nodes if f"{maker.target}.".startswith(f"{n.target}.") and n is not maker]
            return Maker(((table, 0),), torch.arange(len(table))) if table is not None and alone and not named else None
        if not (moves(module, maker) or maker.target is F.interpolate) or not isinstance(maker.args[0], fx.Node):
            return None
        maker, reader = maker.args[0], maker
    return None


def moves(module: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a call only moves its first argument, or multiplies it by a number."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))) is nn.Identity
    if node.op not in ("call_function", "call_method") or not node.args:
        return False
    if node.target is operator.getitem:
        return True
    if node.target in TIMES + OVER:
        return isinstance(node.args[1], (int, float))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _MOVES and (isinstance(node.target, str) or node.target is getattr(torch, name, None))


def _affine(module: fx.GraphModule, node: fx.Node) -> tuple[int, tuple[Piece, ...]] | None:
    """Return the channel axis of a layer's output and its parameters; None for other layers.

    The rows of these parameters (weight and bias) scale the channels.
    """
    if node.target in (F.linear, torch.addmm):
        return _stored_linear(module, node)
    if node.target in TIMES:
        return _stored_scale(module, node)
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
        return 1, tuple((tensor, 0) for tensor in tensors)
    axis = -len(layer.kernel_size) - 1 if isinstance(layer, ConvNd) else -1
    return axis, tuple((tensor, 0) for tensor in tensors)


def _stored_scale(module: fx.GraphModule, node: fx.Node) -> tuple[int, tuple[Piece, ...]] | None:
    """Return the same for a product with a vector along the last axis, which nothing else reads."""
    everywhere = dict(module.named_parameters(remove_duplicate=False))
    names = [str(arg.target) for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr"]
    if len(names) != 1 or len(node.args) != 2 or names[0] not in everywhere:
        return None
    vector = everywhere[names[0]]
    readers = [n for n in module.graph.nodes if n.op == "get_attr" and str(n.target) == names[0]]
    users = {user for each in readers for user in each.users if not _asks(user)}
    known = sum(other is vector for other in everywhere.values()) == 1
    called = any(n.op == "call_module" and names[0].startswith(f"{n.target}.") for n in module.graph.nodes)
    return (-1, ((vector, 0),)) if vector.dim() == 1 and known and not called and users == {node} else None


def _stored_linear(module: fx.GraphModule, node: fx.Node) -> tuple[int, tuple[Piece, ...]] | None:
    """Return the same for ``linear`` or ``addmm`` of stored tensors that nothing else reads."""
    transposed = node.args[2] if node.target is torch.addmm and len(node.args) == 3 else None
    if node.target is torch.addmm and transposed is None:
        return None
    read = [node.args[0], transposed] if transposed is not None else [*node.args[1:], *node.kwargs.values()]
    read = [arg for arg in read if arg is not None]
    everywhere = dict(named_tensors(module))
    pieces: list[Piece] = []
    lengths: set[int] = set()
    stored: list[fx.Node] = []
    makers = {node}
    for arg in read:
        joined = isinstance(arg, fx.Node) and arg.target is torch.cat and len(arg.args) == 1 and not arg.kwargs
        sources: Any = arg.args[0] if joined else [arg]  # type: ignore[union-attr]
        makers |= {arg} if joined else set()  # type: ignore[arg-type]
        first = 0
        for source in sources:
            if not isinstance(source, fx.Node) or source.op != "get_attr" or str(source.target) not in everywhere:
                return None
            tensor = everywhere[str(source.target)]
            pieces.append((tensor.T if source is transposed else tensor, first))
            stored.append(source)
            first += len(pieces[-1][0])
        lengths.add(first)
    if len(lengths) > 1:  # a bias of one number is broadcast
        return None
    names = {str(each.target) for each in stored}
    called = {str(n.target) for n in module.graph.nodes if n.op == "call_module"}
    if any(name.startswith(f"{layer}.") for layer in called for name in names):
        return None
    known = sum(any(other is everywhere[name] for name in names) for other in everywhere.values()) == len(pieces)
    others = [n for n in module.graph.nodes if n.op == "get_attr" and str(n.target) in names]
    users = {user for each in (*others, *makers - {node}) for user in each.users if not _asks(user)}
    return (-1, tuple(pieces)) if known and len(names) == len(pieces) and users == makers else None


@torch.no_grad()
def _is_homogeneous(module: fx.GraphModule, maker: fx.Node, made: Maker) -> bool:
    """Check that doubled rows of weight and bias double just these channels.

    A derived class may compute something else with its weights.
    """
    if maker.op != "call_module":
        return True
    layer = module.get_submodule(str(maker.target))
    if isinstance(layer, ConvNd):
        return type(layer).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    layer = float64_copy(layer, "cpu").eval()
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
        if not isinstance(first, fx.Node) or first not in seen or not moves(module, node):
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
        if node.op == "call_module" or node.target in TIMES + OVER:
            seen[node] = args[0]
        elif node.op == "call_method":
            seen[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            seen[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return seen


def _readers(seen: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """List the calls that do more with the channels than move them or read sizes."""
    readers = {user for node in seen for user in node.users if user not in seen}
    return [node for node in readers if not _asks(node)]


def _asks(node: fx.Node) -> bool:
    """Tell whether a call reads only size, type or device of a tensor, or counts pieces."""
    if node.target is len:
        return True
    name = node.target if node.op == "call_method" else node.args[1] if node.target is getattr else None
    return name in _READS
