"""Numbers are computed only where somebody reads them.

The program of a call shows by the code that runs; numbers change nothing where none of them reaches that code. So an
operator that only computes returns memory that is not filled yet, and waits. It runs, after all before it, as soon as
a number is read: by an operator that may do more than to compute, by one that writes where others still read, or by
Python. Then the call goes on with numbers, as if nothing had waited.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import sys
from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, run_on
from fxprune.pytorch.data_writes import data_writes, number_reads
from fxprune.pytorch.meta import foretell
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    base_of,
    functions_plain,
    is_mutable,
    makes_storage,
    no_dispatch,
    op_name,
    pytree,
    storage_id,
    storage_owners,
    strides_of,
    takes_device,
    without_autocast,
)

from ..observation import Recording, leaves_of
from ..watch import Watch

# The statistics of batch normalisation, which are empty on the CPU where it takes those that are stored.
_NORM = torch.ops.aten.native_batch_norm.default
# What they return lies row by row, whatever they take.
_ROWS = frozenset({"aten::addmm", "aten::baddbmm", "aten::bmm", "aten::mm"})
# Views without an alias in their schema.
_VIEWS = frozenset({"aten::_unsafe_view", "aten::_reshape_alias"})


class Deferred(TorchDispatchMode):
    """A mode, below others, in which the CPU computes numbers only where they are read."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Operators that wait, with what they return; None: they write to their first argument.
        self._waiting: collections.deque[tuple[OpOverload, Any, Any, list[Tensor] | None]] = collections.deque()
        self._unfilled: set[int] = set()  # storages
        self._needed: set[int] = set()  # storages that waiting operators read
        self._waits, self._foretells = True, False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Compute all numbers before Python reads or replaces some inside the block."""
        with number_reads(self._stop, questions=True), data_writes(self._stop):
            yield

    def _stop(self, _: Any) -> None:
        """Compute what waits, and let nothing wait any longer."""
        if self._foretells:  # kernels on the meta device ask, too
            return
        self._waits = False
        self.compute()

    def compute(self) -> None:
        """Compute all numbers."""
        with no_dispatch(), functions_plain(), torch.no_grad(), without_autocast():
            while self._waiting:
                func, args, kwargs, made = self._waiting.popleft()
                out = func(*args, **kwargs)
                for empty, full in zip(made or (), (out,) if isinstance(out, Tensor) else out, strict=False):
                    if full is None:  # a workspace that only gradients need
                        continue
                    if empty.shape != full.shape or empty.dtype != full.dtype:
                        raise RuntimeError(f"{op_name(func)} returns other sizes or types than on the meta device")
                    empty.copy_(full)
        self._unfilled.clear()
        self._needed.clear()

    def is_held(self) -> bool:
        """Tell whether anybody else holds a tensor whose numbers wait."""
        held = _Held()
        for _, args, kwargs, made in self._waiting:
            held.add([args, kwargs, made])
        return held.elsewhere(self._unfilled)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._waits or not isinstance(func, OpOverload):
            self.compute()
            return func(*args, **kwargs)
        if not is_mutable(func) and (not makes_storage(func) or op_name(func) in _VIEWS):  # a view needs no numbers
            return func(*args, **kwargs)
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        if op_name(func) not in _ROWS and not all(
            map(_is_row_by_row, tensors)
        ):  # strides on the meta device may be others
            self.compute()
            return func(*args, **kwargs)
        try:
            storages = list(map(storage_id, tensors))
        except (RuntimeError, NotImplementedError):  # sparse and opaque tensors have none
            self.compute()
            return func(*args, **kwargs)
        if torch.Tag.inplace_view in func.tags:
            if not self._needed.isdisjoint(storages):
                self._keep_as_it_is(args[0])
            return func(*args, **kwargs)
        if is_mutable(func):
            if storages and storages[0] in self._unfilled and self._foretell(func, args, kwargs):
                self._wait(func, args, kwargs, None, storages)
                return args[0]
            if not self._needed.isdisjoint(storages):
                self.compute()
            return func(*args, **kwargs)
        if _makes_like(func):
            return func(*args, **kwargs)
        made = None if _writes_statistics(func, args) or kwargs.get("device") else self._foretell(func, args, kwargs)
        if made is None:
            if not self._unfilled.isdisjoint(storages):
                self.compute()
            return func(*args, **kwargs)
        if func is _NORM and not args[5]:
            made[1:] = [each.new_empty(0) for each in made[1:]]
        self._wait(func, args, kwargs, made, storages)
        return made[0] if len(made) == 1 else tuple(made)

    def _keep_as_it_is(self, tensor: Tensor) -> None:
        """Let what waits have a tensor of its own in place of one that is about to get other sizes."""
        twin = torch.ops.aten.alias.default(tensor)
        self._waiting = pytree.tree_map_only(Tensor, lambda each: twin if each is tensor else each, self._waiting)

    def _foretell(self, func: OpOverload, args: Any, kwargs: Any) -> list[Tensor] | None:
        self._foretells = True
        try:
            return foretell(func, args, kwargs)
        finally:
            self._foretells = False

    def _wait(self, func: OpOverload, args: Any, kwargs: Any, made: list[Tensor] | None, storages: list[int]) -> None:
        self._waiting.append((func, args, kwargs, made))
        self._needed.update(storages)
        self._unfilled.update(map(storage_id, made or ()))
        self._needed.update(map(storage_id, made or ()))


class _Held:
    """Tensors, and how often containers hold them."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}
        self._times: collections.Counter[int] = collections.Counter()
        self._seen: dict[int, Any] = {}

    def add(self, values: Any) -> None:
        """Count the tensors in nested lists, tuples and dicts, each of which counts once."""
        if isinstance(values, Tensor):
            self._tensors[id(values)] = values
            self._times[id(values)] += 1
        elif isinstance(values, (list, tuple, dict)) and id(values) not in self._seen:
            self._seen[id(values)] = values
            for value in values.values() if isinstance(values, dict) else values:
                self.add(value)

    def elsewhere(self, storages: Set[int]) -> bool:
        """Tell whether one that lies in these storages is held by anything else."""
        ours = [each for each in self._tensors.values() if storage_id(each) in storages]
        owners = collections.Counter(map(storage_id, ours))
        viewed = {id(base) for base in map(base_of, self._tensors.values()) if base is not None}  # by their views
        # Beside the containers, they are in `_tensors` and `ours`, and the call and this loop hold one each.
        return any(
            sys.getrefcount(each) != self._times[id(each)] + (id(each) in viewed) + 4
            or storage_owners(each) != owners[storage_id(each)]
            for each in ours
        )


def _is_row_by_row(tensor: Tensor) -> bool:
    """Tell whether a tensor lies row by row, so that all that is computed from it does."""
    if tensor.layout != torch.strided:
        return False
    size, expected = 1, []
    for length in reversed(tensor.shape):
        expected.append(size)
        size *= max(length, 1)
    return strides_of(tensor) == tuple(reversed(expected))


@functools.cache
def _makes_like(func: OpOverload) -> bool:
    """Tell whether an operator takes no more than sizes and type from a tensor."""
    name = op_name(func).removeprefix("aten::")
    return takes_device(func) and (name.startswith("new_") or name.endswith("_like"))


def _writes_statistics(func: OpOverload, args: Any) -> bool:
    """Tell whether a normalisation updates stored statistics, which its schema does not say."""
    return func is _NORM and bool(args[5]) and args[3] is not None


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def runs_deferred(network: nn.Module, inputs: Inputs, recording: Recording, deferred: Deferred) -> bool:
    """Record a call that computes no number before one is read; tell whether it succeeds."""
    given: Inputs = pytree.tree_map_only(Tensor, Tensor.clone, inputs)
    watch = Watch(dict(named_tensors(network)))  # type: ignore[no-untyped-call]
    try:
        with deferred, watch, recording(given) as note:
            with deferred.watching():
                outputs = leaves_of(run_on(network, given))
            note(outputs)
    except Exception:  # a call with numbers is to say what is wrong
        return False
    except BaseException:
        deferred.compute()  # somebody may hold what waits
        raise
    finally:
        watch.restore()
    tensors = [each for each in outputs if isinstance(each, Tensor)]
    return all(type(each) is Tensor and each.layout == torch.strided for each in tensors)
