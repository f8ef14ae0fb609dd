"""List the calls of a captured graph whose literals the rewrite can adapt to new widths.

The analysis reads this list: if an operation below any other call (a module that is one node, a function of the model)
depends on such a literal, its channels freeze. The rewrite has one case for each of these calls, and a test compares
the two lists.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.torch_private import (
    VERSION,
    ConvNd,
    OpOverload,
    is_of_torch,
    is_torch,
    op_arguments,
    op_name,
    pytree,
    replaces_code,
)

CallTarget = str | Callable[..., Any]
Calls = frozenset[CallTarget]

VIEWS: Calls = frozenset({"view", "reshape", "unflatten", torch.reshape, torch.unflatten})
FLATTENS: Calls = frozenset({"flatten", torch.flatten, "ravel", torch.ravel})
EXPANSIONS: Calls = frozenset({"expand", "broadcast_to", torch.broadcast_to})
LIKE: Calls = frozenset({"expand_as", "view_as", "reshape_as"})
REPEATS: Calls = frozenset({"repeat", "tile", torch.tile})
JOINS: Calls = frozenset({torch.cat, torch.concat, torch.concatenate})
INTERLEAVED: Calls = frozenset({"repeat_interleave", torch.repeat_interleave})
FACTORIES: Calls = frozenset({
    torch.empty, torch.zeros, torch.ones, torch.full, "new_empty", "new_zeros", "new_ones", "new_full",
})  # fmt: skip
SQUEEZES: Calls = frozenset({"squeeze", "squeeze_", torch.squeeze})
SPLITS: Calls = frozenset({
    "split", "chunk", "split_with_sizes", "tensor_split",
    torch.split, torch.chunk, torch.split_with_sizes, torch.tensor_split,
})  # fmt: skip
INDICES: Calls = frozenset({"index_select", torch.index_select, torch.ops.aten.index})
# What puts values at places: the names of its arguments, of which one is what it puts.
_PUT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("index_copy", "index_add"), ("input", "dim", "index", "source")),
    "index_fill": ("input", "dim", "index", "value"),
    "index_put": ("input", "indices", "values", "accumulate"),
    "slice_scatter": ("input", "src", "dim", "start", "end", "step"),
    "select_scatter": ("input", "src", "dim", "index"),
}
PUTS: Calls = frozenset({
    *_PUT, "index_copy_", "index_add_", "index_fill_", "index_put_", torch.index_put_,
    torch.index_copy, torch.index_add, torch.index_fill, torch.index_put, torch.slice_scatter, torch.select_scatter,
})  # fmt: skip
SLICES: Calls = frozenset({operator.getitem, operator.setitem, "narrow", torch.narrow, "select", torch.select})
PADS: Calls = frozenset({F.pad, torch.constant_pad_nd})
PRODUCTS: Calls = frozenset({
    operator.matmul, "matmul", "bmm", "mm", "mv", "dot", "inner", torch.matmul, torch.bmm, torch.mm, torch.mv,
    torch.dot, torch.inner, torch.tensordot, torch.einsum,
})  # fmt: skip
SUMS: Calls = frozenset({"sum", torch.sum, torch.linalg.vecdot})
LENGTHS: Calls = frozenset({
    "norm", torch.norm, torch.linalg.norm, torch.linalg.vector_norm, F.pairwise_distance, torch.cdist,
})  # fmt: skip
SOFTMAXES: Calls = frozenset({"softmax", torch.softmax, F.softmax})
LOGARITHMS: Calls = frozenset({"log_softmax", torch.log_softmax, F.log_softmax, "logsumexp", torch.logsumexp})
VARIANCES: Calls = frozenset({"var", "std", torch.var, torch.std, torch.var_mean, torch.std_mean})
ATTENTION: Calls = frozenset({F.scaled_dot_product_attention})
CONVOLUTIONS: Calls = frozenset({F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d})
TRANSPOSED: Calls = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})
LINEAR: Calls = CONVOLUTIONS | TRANSPOSED | {F.linear}
NORMS: Calls = frozenset({F.layer_norm, torch.layer_norm, torch.native_layer_norm, F.rms_norm, torch.rms_norm})
GROUP_NORMS: Calls = frozenset({F.group_norm, torch.group_norm})

REWRITABLE: Calls = VIEWS | FLATTENS | EXPANSIONS | SQUEEZES | SPLITS | SLICES | PADS
REWRITABLE |= PRODUCTS | SUMS | LENGTHS | SOFTMAXES | LOGARITHMS | VARIANCES | ATTENTION | CONVOLUTIONS
REWRITABLE |= TRANSPOSED | NORMS | GROUP_NORMS | LIKE | REPEATS | FACTORIES | INDICES | PUTS | INTERLEAVED | JOINS


def put_names(kind: CallTarget) -> tuple[str, ...]:
    """Name the arguments of a call that puts values at places."""
    return _PUT[str(getattr(kind, "__name__", kind)).removesuffix("_")]


# Leading arguments of functions that can be given by name; those of all other functions start with `input`.
_LEADING: dict[CallTarget, tuple[str, ...]] = {
    F.scaled_dot_product_attention: ("query", "key", "value"),
    **dict.fromkeys(JOINS, ("tensors", "dim")),
    **dict.fromkeys(LIKE, ("input", "other")),
    torch.split: ("tensor", "split_size_or_sections", "dim"),
    torch.matmul: ("input", "other"),
    torch.linalg.norm: ("A",),
    torch.linalg.vector_norm: ("x",),
    torch.bmm: ("input", "mat2"),
    F.linear: ("input", "weight"),
    F.conv1d: ("input", "weight"),
    F.conv2d: ("input", "weight"),
    F.conv3d: ("input", "weight"),
    F.conv_transpose1d: ("input", "weight"),
    F.conv_transpose2d: ("input", "weight"),
    F.conv_transpose3d: ("input", "weight"),
    F.pairwise_distance: ("x1", "x2"),
    **{kind: put_names(kind) for kind in PUTS},
}


# The first arguments in an overload's schema determine its case. Others may mean another thing by the same name: the
# `size` of an unfold is that of its windows.
_BY_ARGUMENTS: tuple[tuple[tuple[str, ...], CallTarget], ...] = (
    (("input", "weight", "bias", "stride", "padding", "dilation", "groups"), torch.conv2d),
    (("input", "normalized_shape"), F.layer_norm),
    (("self", "dim", "sizes"), "unflatten"),
    (("self", "dim", "start", "end"), operator.getitem),
    (("self", "dim", "start", "length"), "narrow"),
    (("self", "pad"), F.pad),
    (("self", "size"), "view"),
    (("self", "shape"), "reshape"),
    (("self", "split_size", "dim"), "split"),
    (("self", "split_sizes", "dim"), "split_with_sizes"),
    (("self", "chunks", "dim"), "chunk"),
    (("self", "sections", "dim"), "tensor_split"),
    (("self", "indices", "dim"), "tensor_split"),
)
# Arguments that state a length in another way, without a case.
_STATED_TWICE = frozenset({"stride", "storage_offset", "dtype"})
# Calls with the same name as a function or method: what a sum returns takes the factor for any arguments.
_BY_NAME: dict[str, CallTarget] = {
    **{target: target for target in PRODUCTS | SUMS | LENGTHS | SOFTMAXES | LOGARITHMS if isinstance(target, str)},
    **{name: name for name in ("expand", "expand_as", "view_as", "reshape_as", "broadcast_to")},
    **{name: name for name in ("repeat", "tile", "repeat_interleave", "index_select")},
    **{name: name for name in ("new_empty", "new_zeros", "new_ones", "new_full")},
    **{name: getattr(torch, name) for name in ("einsum", "tensordot", "cdist", "empty", "zeros", "ones", "full")},
    **{name: getattr(torch, name) for name in ("var", "std", "var_mean", "std_mean", "group_norm")},
    **{f"conv_transpose{rank}d": getattr(F, f"conv_transpose{rank}d") for rank in (1, 2, 3)},
    "linear": F.linear,
    "cat": torch.cat,
    "linalg_vector_norm": torch.linalg.vector_norm,
    "linalg_vecdot": torch.linalg.vecdot,
    **{name + end: name + end for name in _PUT for end in ("", "_") if name + end in PUTS},
    "index": torch.ops.aten.index,
    "select": "select",
    "squeeze": "squeeze",
}


@functools.cache
def canonical_call(target: Any) -> CallTarget | None:
    """Return the call of :data:`REWRITABLE` or :data:`LINEAR` that a target is a form of.

    An ATen operator is identified by the argument names in its schema, which are in the same order.
    """
    if not isinstance(target, OpOverload) or not is_torch(target.__module__):  # of another library, whatever its name
        return target if target in REWRITABLE | LINEAR else None
    name = op_name(target).removeprefix("aten::")
    if name in _BY_NAME:
        return _BY_NAME[name]
    arguments = tuple(argument.name for argument in op_arguments(target))
    if {"query", "key", "scale"}.issubset(arguments):
        return F.scaled_dot_product_attention
    kind = next((kind for names, kind in _BY_ARGUMENTS if arguments[: len(names)] == names), None)
    # The stride of a convolution is that of its kernel, not of memory.
    return None if kind is not torch.conv2d and not _STATED_TWICE.isdisjoint(arguments) else kind


def call_kind(node: fx.Node) -> CallTarget | None:
    """Return the canonical form of what a node calls; None for a layer, whatever its name."""
    return canonical_call(node.target) if node.op in ("call_function", "call_method") else None


def positional(
    target: CallTarget, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with the leading ones by position."""
    given, rest = list(args), dict(kwargs)
    leading = _LEADING.get(target, ("input",))
    if isinstance(target, OpOverload):
        leading = tuple(argument.name for argument in op_arguments(target) if not argument.kwarg_only)
    for name in leading[len(given) :]:
        if name not in rest:
            break
        given.append(rest.pop(name))
    return tuple(given), rest


def scales_input(node: fx.Node) -> bool:
    """Tell whether the rewrite multiplies what this call reads where its sum lacks a factor.

    The sum alone has the factor, not the bias that a layer adds. Hooks and a ``forward`` of a layer's own would see it.
    """
    if node.op == "call_module" and node.graph.owning_module is not None:
        layer = node.graph.owning_module.get_submodule(str(node.target))
        return bool(node.args) and isinstance(layer, (nn.Linear, ConvNd)) and not runs_own_code(node)
    return node.op == "call_function" and call_kind(node) in LINEAR and bool(node.args)


def runs_own_code(node: fx.Node) -> bool:
    """Tell whether a layer runs other code than PyTorch's: its own, its class's, or hooks."""
    if node.op != "call_module" or node.graph.owning_module is None:
        return False
    layer = node.graph.owning_module.get_submodule(str(node.target))
    return not is_of_torch(layer) or replaces_code(layer)


# Reads of sizes, which the rewrite makes numbers, and of other numbers that no width changes.
_SIZE_METHODS = frozenset({"size", "numel", "nelement", "dim", "__len__"})
_OF_MEMORY = frozenset({int, torch.UntypedStorage, torch.TypedStorage})
_WITHOUT_WIDTH = frozenset({"ndimension", "element_size", "itemsize", "get_device", "output_nr", VERSION})


def reads_sizes(node: fx.Node) -> bool:
    """Tell whether a call reads sizes of a tensor in a form that the rewrite knows."""
    if node.op == "call_method":
        return node.target in _SIZE_METHODS
    read = node.args[1] if node.target is getattr else None
    return node.op == "call_function" and (node.target is torch.numel or read in ("shape", "ndim"))


_LIKE = frozenset({torch.zeros_like, torch.ones_like, torch.full_like})


def is_pattern(node: fx.Node) -> bool:
    """Tell whether calls read sizes, type and device of what a node returns, and no numbers."""
    kinds = ("dtype", "device")
    read = (
        user.target in _LIKE or reads_sizes(user) or (user.target is getattr and user.args[1] in kinds)
        for user in node.users
    )
    return bool(node.users) and all(read)


def takes_all(item: Any, x: Any, dim: int) -> bool:
    """Tell whether a slice ends at the length of its own axis, read of the same tensor."""
    if not isinstance(item, slice) or item.start not in (None, 0) or item.step not in (None, 1):
        return False
    if not isinstance(item.stop, fx.Node) or not isinstance(x, fx.Node):
        return False
    if item.stop.target == "size":
        return item.stop.args == (x, dim)
    read, *at = item.stop.args if item.stop.target is operator.getitem else (None,)
    sizes = isinstance(read, fx.Node) and (read.target, *read.args) in ((getattr, x, "shape"), ("size", x))
    return sizes and at == [dim]


def calls_function(node: fx.Node) -> bool:
    """Tell whether a node calls a function, and does not read an attribute."""
    return node.op == "call_function" and node.target is not getattr


def reads_widths(node: fx.Node, value: Any) -> bool:
    """Tell whether a call reads numbers or memory that a width may change, and no case does."""
    name = node.args[1] if node.target is getattr else node.target
    if node.op not in ("call_function", "call_method") or reads_sizes(node) or name in _WITHOUT_WIDTH:
        return False
    return any(type(leaf) in _OF_MEMORY for leaf in pytree.tree_leaves(value))


def is_rewritable(node: fx.Node) -> bool:
    """Tell whether the rewrite has a case for this call."""
    return call_kind(node) in REWRITABLE


def is_foreign(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Tell whether a call is one node without weights and not PyTorch's: it may state a width."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        # A layer whose attributes the rewrite adapts states no width that it could not change.
        ours = is_shaped(module) or is_of_torch(module)
        return not ours and next(module.parameters(), None) is None
    return is_own_function(node)


def is_own_function(node: fx.Node) -> bool:
    """Tell whether a node calls a function, or a method of tensors, that is not PyTorch's."""
    called = getattr(torch.Tensor, str(node.target), None) if node.op == "call_method" else node.target
    return node.op in ("call_function", "call_method") and not is_torch(getattr(called, "__module__", None))


def computes_sizes(node: fx.Node) -> bool:
    """Tell whether the code below a call may compute sizes: a user's own, or what scales images."""
    if runs_own_code(node) or is_own_function(node) or node.target in (F.interpolate, F.upsample):
        return True
    owner = node.graph.owning_module if node.op == "call_module" else None
    return owner is not None and isinstance(owner.get_submodule(str(node.target)), nn.Upsample)


def is_opaque(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Tell whether a call has weights inside and states their width in its own way (attention)."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        ours = is_torch(type(module).__module__) and not is_shaped(module)
        return ours and next(module.parameters(), None) is not None
    return node.target is F.multi_head_attention_forward
