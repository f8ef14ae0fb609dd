"""A network, random numbers and settings of PyTorch are as before, whatever its code does.

Its tensors are not copied for that, but where something else holds their memory as well, as an array of NumPy does: a
write by it shows nowhere. All other writes are watched in each call (:class:`~fxprune.equivalence.watch.Watch`).
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.pytorch.modes import set_autocast
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import set_grad_enabled, storage_id, storage_owners, tensor_tables

from .observation import generators_restored
from .variables import variables_restored
from .watch import Watch, has_storage, hold_the_same, lends_noted

_COVERED: set[int] = set()  # storages that a block outside preserves


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore a network after the block, with its attributes, hooks and settings of PyTorch."""
    tensors = list({id(tensor): tensor for _, tensor in named_tensors(model)}.values())
    plain = [each for each in tensors if has_storage(each) and not each.is_meta]
    owners = collections.Counter(map(storage_id, plain))
    new = set(owners) - _COVERED
    copied = [(x.detach(), x.detach().clone()) for x in plain if storage_id(x) in new and _may_change(x, owners)]
    facts = [(each, each.detach(), each.requires_grad, each.grad if each.is_leaf else None) for each in tensors]
    modules = list(model.modules())
    tables = [(table, dict(table)) for module in modules for table in _tables(module)]
    with generators_restored(), lends_noted(copied.append), _settings_restored(), variables_restored(modules):
        _COVERED.update(new)
        try:
            yield
        finally:
            _COVERED.difference_update(new)
            for table, before in tables:
                _restore_table(table, before)
            for each in facts:
                _restore_facts(*each)
            for memory, values in copied:
                if not hold_the_same(memory, values):
                    memory.copy_(values)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore a network as :func:`preserved` does, and what operators write to its parameters."""
    with preserved(model), Watch(dict(named_tensors(model))) as watch:  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            watch.restore()


def _may_change(tensor: Tensor, owners: collections.Counter[int]) -> bool:
    """Tell whether a tensor is a buffer, or whether something else holds its memory, too."""
    return not isinstance(tensor, nn.Parameter) or storage_owners(tensor) > owners[storage_id(tensor)]


def _tables(module: nn.Module) -> list[dict[str, Any]]:
    if isinstance(module, torch.jit.ScriptModule):
        return []
    return [vars(module), *tensor_tables(module), *(each for each in vars(module).values() if _is_table(each))]


def _is_table(value: Any) -> bool:
    """Tell whether an attribute is a table of hooks or layers."""
    return isinstance(value, collections.OrderedDict) or (isinstance(value, dict) and _holds_layers(value))


def _holds_layers(table: dict[Any, Any]) -> bool:
    return any(isinstance(each, nn.Module) for each in table.values())


def _restore_table(table: dict[str, Any], before: dict[str, Any]) -> None:
    if list(table) != list(before) or any(table[name] is not value for name, value in before.items()):
        table.clear()
        table.update(before)


def _restore_facts(tensor: Tensor, memory: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Restore where a tensor lies, and what PyTorch keeps beside its numbers."""
    now = tensor.detach()
    same = now.shape == memory.shape and now.dtype == memory.dtype and now.layout == memory.layout
    if not same or (has_storage(now) and _place(now) != _place(memory)):
        tensor.data = memory
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not grad:
            tensor.grad = grad


def _place(tensor: Tensor) -> Any:
    return storage_id(tensor), tensor.storage_offset(), tensor.stride()


@contextlib.contextmanager
def _settings_restored() -> Iterator[None]:
    """Restore the settings of PyTorch that a network may change."""
    before = [(setting, _known(setting[0])) for setting in _settings()]
    try:
        yield
    finally:
        for (read, write), value in before:  # one after the other, since some set others
            if value is not _UNKNOWN and _known(read) != value:
                write(value)


_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
_UNKNOWN = object()
_REDUCED = "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"


def _settings() -> list[_Setting]:
    """List how each setting is read and written, those that set others first."""
    backends: Any = torch.backends
    cudnn, mkldnn, cuda = backends.cudnn, backends.mkldnn, backends.cuda
    kinds, attention = ("cpu", "cuda"), ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
    return [
        (torch.is_grad_enabled, set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, _set_default_device),
        (_deterministic, lambda given: torch.use_deterministic_algorithms(given[0], warn_only=given[1])),
        *((partial(torch.is_autocast_enabled, kind), partial(set_autocast, kind)) for kind in kinds),
        *((partial(torch.get_autocast_dtype, kind), partial(torch.set_autocast_dtype, kind)) for kind in kinds),
        (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        (torch.get_num_threads, torch.set_num_threads),
        (_anomaly, lambda given: torch.set_anomaly_enabled(*given)),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        _attribute(backends, "fp32_precision"),
        *(_attribute(cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
        _attribute(mkldnn, "enabled"),
        *(_attribute(cuda.matmul, name) for name in ("allow_tf32", *_REDUCED)),
        *(_attribute(each, "fp32_precision") for each in (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn, mkldnn.matmul)),
        *(_attribute(each, "fp32_precision") for each in (mkldnn.conv, mkldnn.rnn)),
        *((getattr(cuda, f"{name}_enabled"), getattr(cuda, f"enable_{name}")) for name in attention),
    ]


def _attribute(holder: Any, name: str) -> _Setting:
    return partial(getattr, holder, name), partial(setattr, holder, name)


def _known(read: Callable[[], Any]) -> Any:
    """Read a setting; PyTorch refuses a former name after one that its new names made."""
    try:
        return read()
    except RuntimeError:
        return _UNKNOWN


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _deterministic() -> tuple[bool, bool]:
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
