"""The closed list of functions, methods and attributes that a graph may name.

PyTorch itself lists what computes on tensors (``torch.overrides``); what makes tensors, and what only asks, is added by
hand. Nothing in the list opens a file, runs code that it is given, or shares memory. A name is resolved by looking it
up here, never by importing it. torchvision's operators are not in it: those that read boxes or offsets check none, and
a box outside of the image, or one that is no number, reads outside of memory.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import overrides

from fxprune.arguments.guards import guard_dtype, guard_equal, guard_tensor
from fxprune.arguments.records import Record, named_tuple
from fxprune.pytorch.modes import MANAGERS, QUESTIONS, enter, leave
from fxprune.pytorch.torch_private import OpOverload, assert_call, op_arguments

Function = Callable[..., Any]

# In this order: the first namespace that has a function names it.
_NAMESPACES = ("torch.nn.functional", "torch", "torch.functional", "torch.linalg", "torch.fft", "torch.special")
_MAKERS = (
    "arange", "as_strided", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "scalar_tensor", "tensor",
    "tril_indices", "triu_indices", "vander", "zeros", "empty_like", "full_like", "ones_like", "zeros_like", "fill",
    assert_call.__name__, "_assert_async", "_weight_norm", "broadcast_shapes", "can_cast", "finfo", "iinfo",
    "is_tensor", "promote_types", "result_type", "Size", *QUESTIONS,
)  # fmt: skip
_OPERATORS = (
    "abs", "add", "and_", "concat", "contains", "eq", "floordiv", "ge", "getitem", "gt", "iadd", "iand", "ifloordiv",
    "imatmul", "imod", "imul", "index", "inv", "invert", "ior", "ipow", "is_", "is_not", "isub", "itruediv", "ixor",
    "le", "lshift", "lt", "matmul", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "setitem", "sub",
    "truediv", "truth", "xor",
)  # fmt: skip
_BUILTINS = (
    "abs", "bool", "complex", "dict", "divmod", "float", "getattr", "int", "len", "list", "max", "min", "pow", "range",
    "reversed", "round", "slice", "sorted", "sum", "tuple",
)  # fmt: skip
# What ATen calls otherwise than PyTorch's functions and methods.
_ATEN = frozenset(
    {
        "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_assert_scalar", "_assert_tensor_metadata",
        "_batch_norm_no_update", "_batch_norm_with_update", "_conj", "_fused_rms_norm", "_log_softmax",
        "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training",
        "_prelu_kernel", "_reshape_alias", "_safe_softmax", "_softmax", "_to_copy", "_unsafe_index", "_unsafe_view",
        "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
        "_weight_norm_interface", "alias", "col2im", "copy", "im2col", "lift_fresh", "lift_fresh_copy",
        "linalg_vector_norm", "log_sigmoid_forward", "mT", "numpy_T", "reflection_pad1d", "reflection_pad2d",
        "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "rrelu_with_noise", "slice",
        "sym_numel", "sym_size", "upsample_bicubic2d", "upsample_bilinear2d", "upsample_linear1d",
        "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_trilinear3d", "zero",
    }
)  # fmt: skip
_WRITTEN_BY_US = (guard_equal, guard_dtype, guard_tensor, enter, leave, Record, named_tuple)
_OURS = {f"fxprune.{each.__name__}": each for each in _WRITTEN_BY_US}

_MADE = (
    "unflatten",
    "new_empty",
    "new_full",
    "new_ones",
    "new_tensor",
    "new_zeros",
    "size",
    "stride",
    "to",
    "is_floating_point",
)
_OF_CONTAINERS = ("count", "get", "index", "items", "keys", "values")
_SPECIAL_METHODS = ("__getitem__", "__len__", "__contains__")
_DENIED_METHODS = frozenset(
    {
        "apply_", "map_", "map2_", "backward", "register_hook", "register_post_accumulate_grad_hook", "retain_grad",
        "numpy", "tolist", "share_memory_", "pin_memory", "set_", "resize_", "resize_as_", "resize_as_sparse_",
        "sparse_resize_", "sparse_resize_and_clear_", "storage", "untyped_storage", "storage_type", "data_ptr",
        "const_data_ptr", "module_load", "record_stream", "requires_grad_",
    }
)  # fmt: skip

ATTRIBUTES = frozenset(
    {
        "shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "real", "imag", "layout", "itemsize", "nbytes",
        "is_cuda", "is_cpu", "is_meta", "is_mps", "is_xpu", "is_sparse", "is_nested", "is_quantized", "is_mkldnn",
        "requires_grad", "data",
        "type", "index", "is_complex", "is_floating_point", "bits", "eps", "max", "min", "tiny", "smallest_normal",
        "resolution", "values", "indices", "start", "stop", "step", "hidden_states", "logits", "last_hidden_state",
    }
)  # fmt: skip


@functools.cache
def _functions() -> Mapping[str, Function]:
    """Map each name to its function."""
    found: dict[str, Function] = {}
    listed = {id(each) for each in _overridable()}
    for namespace in _NAMESPACES:
        module = operator.attrgetter(namespace.removeprefix("torch."))(torch) if namespace != "torch" else torch
        for name, value in vars(module).items():
            own = namespace == "torch.nn.functional" and getattr(value, "__module__", "") == namespace
            if not name.startswith("_") and callable(value) and (id(value) in listed or own):
                found[f"{namespace}.{name}"] = value
    found |= {f"torch.{name}": getattr(torch, name) for name in _MAKERS if hasattr(torch, name)}
    found |= {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    found |= {f"math.{name}": value for name, value in vars(math).items() if callable(value) and name[0] != "_"}
    found |= {f"builtins.{name}": getattr(builtins, name) for name in _BUILTINS}
    return found | _OURS | {"collections.OrderedDict": OrderedDict}


@functools.cache
def _names() -> Mapping[int, str]:
    """Map the id of each function to the first of its names."""
    names: dict[int, str] = {}
    for name, value in _functions().items():
        names.setdefault(id(value), name)
    return names


def _overridable() -> list[Any]:
    return [each for functions in overrides.get_overridable_functions().values() for each in functions]


@functools.cache
def methods() -> frozenset[str]:
    """Return the names of the methods that a graph may call."""
    listed = {each.__name__ for each in overrides.get_overridable_functions()[torch.Tensor]}
    public = {name for name in listed if not name.startswith("_")} | {*_MADE, *_OF_CONTAINERS, *_SPECIAL_METHODS}
    return frozenset(public - _DENIED_METHODS)


def operator_name(function: Any) -> str | None:
    """Name a function of the closed list, as ``torch.nn.functional.relu``, or return None."""
    if isinstance(function, OpOverload):
        name = f"torch.ops.{function}"
        return name if _operator_of(name) is function else None
    try:
        return _names().get(id(function))
    except TypeError:
        return None


def operator_of(name: str) -> Function | None:
    """Return the function of a name in the closed list; None if there is none."""
    return _operator_of(name) if name.startswith("torch.ops.") else _functions().get(name)


def _operator_of(name: str) -> Function | None:
    """Return an ATen operator, unless it opens a file."""
    parts = name.split(".")
    if len(parts) != 5 or parts[2] != "aten":
        return None
    base = parts[3].rstrip("_")
    known = base in _ATEN or base in methods() or any(f"{space}.{base}" in _functions() for space in _NAMESPACES)
    if not known or parts[3] in _DENIED_METHODS:
        return None
    packet = getattr(torch.ops.aten, parts[3], None) if parts[3].isidentifier() and parts[3][:2] != "__" else None
    found = getattr(packet, parts[4], None) if parts[4].isidentifier() and parts[4][:2] != "__" else None
    if not isinstance(found, OpOverload) or any(argument.name == "filename" for argument in op_arguments(found)):
        return None
    return found


def why_not(function: Any, args: tuple[Any, ...]) -> str:
    """Say why a call with these arguments is not one of PyTorch alone; empty if it is one.

    Reads of attributes and modes name what they read or enter, and so are checked by argument.
    """
    if function is builtins.getattr and (len(args) != 2 or args[1] not in ATTRIBUTES):
        return f"it reads the attribute {str(args[1:])[:60]}"
    if function is enter and (not args or args[0] not in MANAGERS):
        return f"it enters {str(args[:1])[:60]}"
    if function is named_tuple and not (_are_names(args[:2]) and _are_values(args)):
        return f"it makes a tuple with the names {str(args[:2])[:60]}"
    return ""


def _are_names(args: tuple[Any, ...]) -> bool:
    names = (args[0], *args[1]) if len(args) == 2 and isinstance(args[1], tuple) else ()
    valid = (isinstance(each, str) and each.isidentifier() and each[0] != "_" for each in names)
    once = len(set(names[1:])) == len(names) - 1
    return bool(names) and all(valid) and once and not any(map(keyword.iskeyword, names))


def _are_values(args: tuple[Any, ...]) -> bool:
    return len(args) == 3 and isinstance(args[2], (tuple, list)) and len(args[1]) == len(args[2])
