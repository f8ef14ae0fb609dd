"""Run operators on the meta device, and remember what they returned.

The blocks of a network repeat. A meta kernel is a function of its arguments' metadata. So a result may be made again
from a key that holds the operator, every constant with its type, and all metadata of every tensor; what could depend
on more is never remembered: operators that return views, draw random numbers, or write to several tensors, arguments
that share memory, and tensors of another class, layout or rank 0 (which may stand for a Python number and promote
otherwise).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    functions_plain,
    makes_storage,
    memory_of,
    no_dispatch,
    op_arguments,
    op_name,
    overload_names,
    pytree,
    storage_id,
)

# The key of a call -> metadata of its results; None: it writes to its first argument, and returns it unchanged.
_Known = list[tuple[Any, ...]] | None
_remembered: dict[Any, tuple[bool, _Known]] = {}
_layers: dict[Any, tuple[Any, _Known]] = {}
# Enough for the largest networks; then each memory starts again.
_MOST = 20_000
_CONSTANTS = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
# Pointwise operators in place that PyTorch does not tag as such.
_POINTWISE = frozenset({"copy_", "fill_", "gelu_", "hardswish_", "masked_fill_", "mish_", "threshold_", "zero_"})


# Operators beside pointwise ones that only compute from numbers in floating point, whatever these are.
_COMPUTING = frozenset({
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_addmm_activation", "_log_softmax", "_prelu_kernel",
    "_safe_softmax",
    "_softmax", "_to_copy", "adaptive_max_pool2d", "addmm", "amax", "amin",
    "avg_pool2d", "avg_pool3d", "baddbmm", "bmm", "cat", "constant_pad_nd", "convolution", "cumsum", "flip", "glu",
    "hardswish", "linalg_vector_norm", "linear", "max_pool2d_with_indices", "max_pool3d_with_indices", "mean",
    "mkldnn_rnn_layer", "mm", "native_batch_norm", "native_group_norm", "native_layer_norm", "pixel_shuffle",
    "reflection_pad1d", "reflection_pad2d", "repeat", "replication_pad2d", "roll", "rsub", "stack", "std", "sum",
    "upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d", "var", "var_mean",
})  # fmt: skip
# It draws only for dropout.
_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
# They also return where they found a number.
_WITH_PLACES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("adaptive_max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_rnn_layer")
)
_PRECISIONS = frozenset({torch.float32, torch.float64})


class _UndescribedError(Exception):
    """An argument that no key describes."""


def run_meta(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return ``func(*args, **kwargs)`` for tensors on the meta device."""
    if kernel := _kernels().get(func):
        return kernel(*args, **kwargs)
    kind = _kind(func)
    if kind is None or torch.is_inference_mode_enabled():
        return func(*args, **kwargs)
    storages: list[int] = []
    try:
        named = _key(tuple(kwargs.items()), storages) if kwargs else None
        key = (func, torch.get_default_dtype(), _key(args, storages), named)
    except _UndescribedError:
        return func(*args, **kwargs)
    if kind == "writes" and len(set(storages)) < len(storages):
        return func(*args, **kwargs)
    known = _remembered.get(key)
    if known is not None:
        return _made(known, args)
    return _run_and_remember(key, func, args, kwargs, storages)


def _run_and_remember(
    key: Any, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], storages: list[int]
) -> Any:
    """Run an operator, and remember what it returned."""
    writes = _kind(func) == "writes"
    before = _metadata(args[0]) if writes else None
    out = func(*args, **kwargs)
    if writes:
        if out is args[0] and _metadata(out) == before:
            _remember(key, False, None)
        return out
    single = isinstance(out, torch.Tensor)
    outs = [out] if single else list(out) if isinstance(out, tuple) else []
    if fresh := _fresh(outs, storages):
        _remember(key, single, fresh)
    return out


def foretell(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor] | None:
    """Make tensors as an operator returns them for tensors on the CPU, but compute no numbers.

    An operator that writes to its first argument returns that one. Strides are those on the meta device. None: an
    operator that does more than to compute, or that takes numbers of other types than one in floating point.
    """
    draws = func is _ATTENTION and (args[3:4] or [kwargs.get("dropout_p", 0.0)])[0] != 0.0
    if not _computes(func) or draws or torch.is_inference_mode_enabled():
        return None
    storages: list[int] = []
    kinds: set[torch.dtype] = set()
    try:
        named = _key(tuple(kwargs.items()), storages, kinds) if kwargs else None
        key = (func, torch.get_default_dtype(), _key(args, storages, kinds), named)
    except _UndescribedError:
        return None
    kinds.discard(torch.bool)
    if len(kinds) != 1 or not kinds <= _PRECISIONS:
        return None
    if _kind(func) == "writes" and len(set(storages)) < len(storages):
        return None
    if key not in _remembered:
        of_args, of_kwargs = pytree.tree_map_only(torch.Tensor, _twin, (args, kwargs))
        with contextlib.suppress(Exception):  # the operator itself is to say what is wrong
            _run_and_remember(key, func, of_args, of_kwargs, [])
    _, known = _remembered.get(key, (False, []))
    if known is None:
        return [args[0]]
    if func not in _WITH_PLACES and any(not (kind.is_floating_point or kind == torch.bool) for *_, kind in known):
        return None  # integers may be read as sizes
    return [torch.empty_strided(size, stride, dtype=kind) for size, stride, kind in known] or None


def _twin(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


class OwnKernels(TorchDispatchMode):
    """Use the kernels of this module for tensors without numbers, where PyTorch has none."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator."""
        return _kernels().get(func, func)(*args, **(kwargs or {}))


@functools.cache
def _kernels() -> dict[Any, Callable[..., Any]]:
    """Return kernels for operators of which PyTorch has none on the meta device."""
    masked, alone = _rounded_with_mask, lambda x, *_: torch.empty_like(x)
    names = {
        "fake_quantize_per_tensor_affine_cachemask": masked,
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": masked,
        "fake_quantize_per_channel_affine_cachemask": masked,
        "_fake_quantize_learnable_per_tensor_affine": alone,
        "_fake_quantize_learnable_per_channel_affine": alone,
        "_grouped_mm": _empty_grouped_product,  # PyTorch's own takes bfloat16 only
    }
    known = {name: getattr(torch.ops.aten, name, None) for name in names}
    return {packet.default: names[name] for name, packet in known.items() if packet is not None}


def _rounded_with_mask(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def _empty_grouped_product(
    a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> torch.Tensor:
    lead = (a.shape[:1] if offs is None else offs.shape) if a.dim() == b.dim() else ()
    return a.new_empty((*lead, a.shape[-2], b.shape[-1]), dtype=out_dtype)


def make_again(call: tuple[Any, ...], run: Callable[[], Any]) -> Any:
    """Return ``run()`` of a call that is described completely, or tensors like it returned."""
    storages: list[int] = []
    try:
        with functions_plain():  # a mode may say that tensors are elsewhere
            key = torch.get_default_dtype(), call[0], _key(call[1:], storages)
            if key in _layers:
                structure, known = _layers[key]
                with no_dispatch():
                    made = _made((structure is None, known), ())
                    return made if structure is None else pytree.tree_unflatten(made, structure)
    except _UndescribedError:
        return run()
    out = run()
    outs, structure = ([out], None) if isinstance(out, torch.Tensor) else pytree.tree_flatten(out)
    with functions_plain(), no_dispatch():
        if known := _fresh(outs, storages):
            if len(_layers) >= _MOST:
                _layers.clear()
            _layers[key] = structure, known
    return out


def _fresh(outs: list[Any], storages: list[int]) -> _Known:
    """Return the metadata of plain results that fill new memory; None for others."""
    plain = all(type(x) is torch.Tensor and x.is_meta and x.layout == torch.strided for x in outs)
    fresh = plain and all(_is_whole(x) and storage_id(x) not in storages for x in outs)
    if outs and fresh and len({storage_id(x) for x in outs}) == len(outs):
        return [(tuple(x.shape), x.stride(), x.dtype) for x in outs]
    return None


def _remember(key: Any, single: bool, known: _Known) -> None:
    if len(_remembered) >= _MOST:
        _remembered.clear()
    _remembered[key] = single, known


def _made(known: tuple[bool, _Known], args: tuple[Any, ...]) -> Any:
    single, results = known
    if results is None:
        return args[0]
    outs = [torch.empty_strided(size, stride, dtype=kind, device="meta") for size, stride, kind in results]
    return outs[0] if single else tuple(outs)


@functools.cache
def _kind(func: OpOverload) -> str | None:
    """Tell whether an operator ``makes`` tensors, or ``writes`` to its first argument, only."""
    if not isinstance(func, OpOverload) or torch.Tag.nondeterministic_seeded in func.tags:
        return None
    if "as_strided" in op_name(func):  # which reads beyond its argument's sizes
        return None
    arguments = op_arguments(func)
    written = [place for place, argument in enumerate(arguments) if argument.is_write]
    if not written:
        aliased = any(argument.alias_info is not None for argument in arguments)
        return "makes" if makes_storage(func) and not aliased else None
    pointwise = torch.Tag.pointwise in func.tags or op_name(func).removeprefix("aten::") in _POINTWISE
    return "writes" if written == [0] and pointwise else None


@functools.cache
def _computes(func: OpOverload) -> bool:
    """Tell whether an operator only computes numbers from numbers, and refuses none."""
    if func is _ATTENTION:
        return True
    space, name, _ = overload_names(func)
    known = torch.Tag.pointwise in func.tags or name in _COMPUTING or name in _POINTWISE
    return space == "aten" and known and _kind(func) is not None


def _key(value: Any, storages: list[int], kinds: set[torch.dtype] | None = None) -> Any:
    """Describe an argument completely; equal constants of other types promote otherwise.

    Tensors are on the meta device, or on the CPU if their types are asked for.
    """
    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise _UndescribedError
        if not (value.is_meta and value.dim() if kinds is None else value.is_cpu):
            raise _UndescribedError
        if kinds is not None:
            kinds.add(value.dtype)
        storages.append(storage_id(value))
        return _metadata(value)
    if value is None or type(value) in _CONSTANTS:
        return type(value), value
    if type(value) in (list, tuple):
        return type(value), *[_key(each, storages, kinds) for each in value]
    raise _UndescribedError


def _metadata(x: torch.Tensor) -> tuple[Any, ...]:
    if x.layout != torch.strided or x.is_conj() or x.is_neg() or x.is_quantized:
        raise _UndescribedError
    return torch.Tensor, x.shape, x.stride(), x.dtype, x.storage_offset()


def _is_whole(x: torch.Tensor) -> bool:
    """Tell whether a tensor fills its memory from the start, as one of ``empty_strided`` does."""
    twin = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    same_memory = memory_of(twin) == memory_of(x)
    return bool(same_memory and x.storage_offset() == 0 and not x.is_conj() and not x.is_neg())
