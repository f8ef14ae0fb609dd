"""Two networks that run the same operators on the same tensors compute the same.

A program is recorded on the meta device, without numbers: each operator with its constants, and for each tensor the
stored tensor, the input or the operator that it comes from. If two programs are equal, so are all results, written
tensors and random draws, for all numbers, bit by bit. That holds only if nothing else matters, so a program is *open*,
and says nothing, where a network

- asks for a number, or meets a tensor that no recorded operator made;
- sets an attribute, replaces a buffer, the data of a tensor, or writes to a parameter, since a later call may read it;
- reads or sets autocast, seeds a generator of PyTorch, or draws from one of Python or NumPy.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from fxprune.common.data_writes import data_writes
from fxprune.common.inputs import Inputs, as_meta, run_on, tensors_of
from fxprune.common.meta_kernels import run_meta
from fxprune.common.modules import PLACES, map_tensors, named_tensors
from fxprune.common.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    op_arguments,
    op_name,
    pytree,
    storage_id,
    takes_device,
)

from .observation import autocast_watched, generators_restored, leaves_of

_META = torch.device("meta")
# They make what an operator fills at once, as that of dropout.
_SCRATCH = ("aten::empty_like", "aten::new_empty")


class _OpenError(Exception):
    """The program depends on what no record shows."""


class Programs:
    """A model and its graph, which may certainly run one program.

    Both have made a call with real numbers before, in eval mode: what the model keeps for later calls, as in a table of
    its own, is real then. So operators that make tensors, where they are recorded in eval mode, are none that the
    model would keep; in training mode only those may run, lest a tensor without numbers gets into such a table.
    """

    def __init__(self, model: nn.Module, module: fx.GraphModule) -> None:
        """Take any module, and a graph that shares its tensors; only copies run."""
        self._pair = model, module
        self._made: set[str] = set()

    def are_equal(self, examples: Iterable[Inputs], *, training: bool) -> bool:
        """Tell whether both certainly run one program, in two calls in a row.

        False says nothing: numbers must decide.

        Args:
            examples: inputs, of which only sizes and types matter; the first on which both run is taken.
            training: in training mode instead of eval mode, which comes first.
        """
        stored, may_make = named_tensors(self._pair[0]), frozenset(self._made) if training else None
        for inputs in examples:
            with contextlib.suppress(Exception), torch.no_grad(), generators_restored():  # a network may raise anything
                wanted, found = (_Run(network, stored, training, may_make) for network in self._pair)
                equal = wanted.program(inputs) == found.program(inputs)
                self._made |= wanted.made
                return equal and not (wanted.is_open or found.is_open)
        return False


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from: a call, and its operator or input there; or a stored name."""

    path: tuple[Any, ...]


class _Run(TorchDispatchMode):
    """A copy of a network on the meta device, and a mode that records its operators."""

    def __init__(
        self, network: nn.Module, stored: list[tuple[str, Tensor]], training: bool, may_make: Set[str] | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_open = False
        self.made: set[str] = set()  # by operators without an origin for what they return
        self._may_make = may_make
        self._twin = map_tensors(network, lambda _, tensor: torch.empty_like(tensor, device=_META)).eval()
        if training:
            self._twin.train()
        names = {id(tensor): name for name, tensor in reversed(stored)}
        originals = dict(named_tensors(network))
        self._origins = {
            id(tensor): (tensor, _Origin((names[id(originals[name])],))) for name, tensor in named_tensors(self._twin)
        }
        self._parameters = set(map(storage_id, self._twin.parameters()))
        self._device = next((tensor.device for _, tensor in stored), torch.device("cpu"))
        self._calls: list[list[Any]] = []

    def program(self, inputs: Inputs) -> list[Any]:
        """Record two calls in a row, each with its results."""
        return [self._call(as_meta(inputs)) for _ in range(2)]

    def _call(self, given: Inputs) -> Any:
        self._calls.append([])
        for place, tensor in enumerate(tensors_of(given)):
            self._number(tensor, "input", place)
        before, self._drawn = self._state(), _torch_state()
        functions = _Functions(self._device, self._calls[-1])
        with _attributes_watched() as sets, data_writes(sets.append), autocast_watched() as uses, functions, self:
            outputs = leaves_of(run_on(self._twin, given))
        self.is_open |= bool(sets or uses) or before != self._state()
        return [self._described(leaf) for leaf in outputs], self._calls[-1]

    def _state(self) -> Any:
        kind, keys, *rest = np.random.get_state()
        tables = [(name, id(tensor)) for name, tensor in named_tensors(self._twin)]
        return tables, random.getstate(), kind, np.asarray(keys).tobytes(), rest, _torch_state()

    def _number(self, tensor: Tensor, *path: Any) -> None:
        """Introduce a tensor, and keep it alive, so that its identity stays unique."""
        self._origins[id(tensor)] = tensor, _Origin((len(self._calls), *path))

    def _described(self, value: Any) -> Any:
        """Describe an argument by where it comes from, or by its value and type."""
        if isinstance(value, Tensor):
            if id(value) not in self._origins:
                self._open()
            return self._origins[id(value)][1]
        if isinstance(value, (list, tuple)):
            return [self._described(each) for each in value]
        return type(value), value

    def _open(self) -> None:
        self.is_open = True  # in case that the network handles the error
        raise _OpenError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or (is_mutable(func) and self._writes_parameter(func, args, kwargs)):
            self._open()
        # On meta nothing is drawn, so that only a seed changes the generator, which a trace does not record.
        if torch.Tag.nondeterministic_seeded in func.tags and _torch_state() != self._drawn:
            self._open()
        if takes_device(func) and op_name(func) not in _SCRATCH:
            self._make(func, args, kwargs)
        operators = self._calls[-1]
        named = [(name, self._described(each)) for name, each in kwargs.items()]
        operators.append((func, self._described(args), named))
        place = len(operators)
        out = run_meta(func, args, {**kwargs, "device": _META} if takes_device(func) else kwargs)
        for index, leaf in enumerate(out if isinstance(out, (list, tuple)) else [out]):
            if leaf is not None and not isinstance(leaf, Tensor):
                self._open()
            if leaf is not None and id(leaf) not in self._origins:
                self._number(leaf, place, index)
        return out

    def _make(self, func: Any, args: Any, kwargs: Any) -> None:
        """Note what an operator is asked to make, or refuse what may not be made."""
        plain = {name: each for name, each in kwargs.items() if name != "device"}
        asked = str((func, pytree.tree_map_only(Tensor, lambda x: (x.shape, x.dtype), (args, plain))))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)

    def _writes_parameter(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Tell whether an operator writes to a parameter, which would change what was trained."""
        written = [
            args[place] if place < len(args) else kwargs.get(argument.name)
            for place, argument in enumerate(op_arguments(func))
            if argument.is_write
        ]
        return any(storage_id(leaf) in self._parameters for leaf in pytree.tree_leaves(written) if leaf is not None)


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


class _Functions(TorchFunctionMode):
    """A mode in which tensors say that they are on the model's device.

    It records attention, which the meta device decomposes, but autocast sees as one function.
    """

    def __init__(self, device: torch.device, calls: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answers = {getattr(Tensor, name).__get__: place(device) for name, place in PLACES.items()}
        self._calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._answers:
            return self._answers[func]
        if func is F.scaled_dot_product_attention:
            self._calls.append(func)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _attributes_watched() -> Iterator[list[Any]]:
    """Yield the names of the attributes that any module sets."""
    found: list[Any] = []
    write: Callable[..., None] = nn.Module.__setattr__

    def written(module: nn.Module, name: str, value: Any) -> None:
        found.append(name)
        write(module, name, value)

    nn.Module.__setattr__ = written  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        nn.Module.__setattr__ = write  # type: ignore[method-assign]
