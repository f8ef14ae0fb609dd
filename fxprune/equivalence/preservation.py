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

from fxprune.common.objects import are_same, is_a
from fxprune.common.threads import one_thread
from fxprune.pytorch.modes import set_autocast
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import HOOKS_AND_LAYERS, set_grad_enabled, storage_id, storage_owners, tensor_tables

from .observation import generators_restored
from .variables import Variables, keys_of, members_of, python_class_of, refill
from .watch import Watch, has_storage, hold_the_same, lends_noted

_COVERED: set[int] = set()  # storages that a block outside preserves
_OPEN: dict[int, Snapshot] = {}  # of the networks that a block outside preserves, by identity


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[Snapshot]:
    """Restore a network after the block, with its attributes, hooks and settings of PyTorch.

    A block inside another one of the same network restores what that one found.
    """
    with one_thread():
        outer = _OPEN.get(id(model))
        snapshot = _OPEN[id(model)] = outer or Snapshot(model)
        new = snapshot.storages - _COVERED
        copied = [(x.detach(), x.detach().clone()) for x in snapshot.shared if storage_id(x) in new]
        _COVERED.update(new)
        try:
            with generators_restored(), lends_noted(copied.append), _settings_restored():
                yield snapshot
        finally:
            _COVERED.difference_update(new)
            if outer is None:
                del _OPEN[id(model)]
            snapshot.restore()
            for memory, values in copied:
                if not hold_the_same(memory, values):
                    memory.copy_(values)


class Snapshot:
    """A state of a network and of its variables.

    Attributes:
        storages: where its tensors lie.
        shared: tensors whose numbers may change where nobody sees it.
        rewired: the first module that had other hooks, layers or stored tensors when it was restored; None so far.
        touched: lists, tables or objects in attributes were others when they were restored.
    """

    rewired: nn.Module | None = None
    touched = False

    def __init__(self, model: nn.Module) -> None:
        tensors = list({id(tensor): tensor for _, tensor in named_tensors(model)}.values())
        plain = [each for each in tensors if has_storage(each) and not each.is_meta]
        owners = collections.Counter(map(storage_id, plain))
        self.storages = set(owners)
        self.shared = [x for x in plain if _may_change(x, owners)]
        self._facts = [(x, x.detach(), x.requires_grad, x.grad if x.is_leaf else None) for x in tensors]
        modules = list(model.modules())
        tables = [table for module in modules for table in _tables(module)]
        self._empty = [table for table in tables if not dict.__len__(table)]  # most of them
        self._tables = [(table, keys_of(table), members_of(table)) for table in tables if dict.__len__(table)]
        # By identity of the tables of hooks, layers and stored tensors, which hold the wiring.
        self._wired = {id(table): module for module in modules for table in _wiring_of(module)}
        self._variables = Variables(modules)

    def restore(self) -> None:
        """Restore all but numbers."""
        for empty in filter(dict.__len__, self._empty):
            self._note(empty, {})
            python_class_of(empty).clear(empty)
        for table, names, values in self._tables:
            if not are_same(keys_of(table), names) or not are_same(members_of(table), values):
                self._note(table, dict(zip(names, values, strict=True)))
                refill(table, zip(names, values, strict=True))
        self.touched |= self._variables.restore()
        for each in self._facts:
            _restore_facts(*each)

    def _note(self, table: dict[Any, Any], before: dict[Any, Any]) -> None:
        """Note a changed table if it is part of a module's wiring."""
        replaced = (
            id(held) for name, held in before.items() if name in HOOKS_AND_LAYERS and table.get(name) is not held
        )
        found = next(filter(None, map(self._wired.get, (id(table), *replaced))), None)
        self.rewired = found if self.rewired is None else self.rewired


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
    return [
        vars(module),
        *tensor_tables(module),
        *(each for each in vars(module).values() if _is_table_of_module(each)),
    ]


def _wiring_of(module: nn.Module) -> list[Any]:
    """List the tables of a module's hooks, layers and stored tensors."""
    if isinstance(module, torch.jit.ScriptModule):
        return []
    return [*(vars(module)[name] for name in HOOKS_AND_LAYERS if name in vars(module)), *tensor_tables(module)]


def _is_table_of_module(value: Any) -> bool:
    """Tell whether an attribute is a table of hooks or layers."""
    return is_a(value, collections.OrderedDict) or (is_a(value, dict) and _holds_layers(value))


def _holds_layers(table: dict[Any, Any]) -> bool:
    return any(is_a(each, nn.Module) for each in members_of(table))


def _restore_facts(tensor: Tensor, memory: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    """Restore where a tensor lies, and what PyTorch keeps beside its numbers."""
    now = tensor.detach()
    same = now.shape == memory.shape and now.dtype == memory.dtype and now.layout == memory.layout
    if not same or (has_storage(now) and _memory_of(now) != _memory_of(memory)):
        tensor.data = memory
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not grad:
            tensor.grad = grad


def _memory_of(tensor: Tensor) -> Any:
    return storage_id(tensor), tensor.storage_offset(), tensor.stride()


@contextlib.contextmanager
def _settings_restored() -> Iterator[None]:
    """Restore the settings of PyTorch that a network may change."""
    before = [(setting, _known(setting[0])) for setting in _settings_of_torch()]
    try:
        yield
    finally:
        for (read, write), value in before:  # one after the other, since some set others
            if value is not _UNKNOWN and _known(read) != value:
                write(value)


_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
_UNKNOWN = object()
_REDUCED = "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"


def _settings_of_torch() -> list[_Setting]:
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
        (backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled),
        (torch.is_warn_always_enabled, torch.set_warn_always),
        _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
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
