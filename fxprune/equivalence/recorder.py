"""Records of the operators that a call runs, with numbers or on the meta device."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fxprune.arguments.inputs import Inputs, as_meta, run_on, tensors_of
from fxprune.pytorch.data_writes import attribute_writes, data_writes
from fxprune.pytorch.meta_kernels import run_meta
from fxprune.pytorch.modules import PLACES, map_tensors, named_tensors
from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    op_arguments,
    op_name,
    pytree,
    storage_id,
    takes_device,
)

from .observation import autocast_watched, leaves_of

_META = torch.device("meta")
# They make what an operator fills at once, as that of dropout.
_SCRATCH = ("aten::empty_like", "aten::new_empty")
# They may return their tensor as it is; gradients pass through.
_VIEWS = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.slice.Tensor)


class _OpenError(Exception):
    """The program depends on what no record shows."""


class _Recorder(TorchDispatchMode):
    """A mode that records the operators of a network, and where their tensors come from."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a network whose tensors are those of the model under other ``names``."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_open, self.views = False, True
        self._network = network
        # Where each tensor comes from: its stored name; or the call, and its operator or input there.
        self._origins: Any = WeakIdKeyDictionary()
        # A constant that only the graph stores has no name in the model.
        self._stored = [(tensor, names[name]) for name, tensor in reversed(named_tensors(network)) if name in names]
        self._parameters = set(map(storage_id, network.parameters()))
        self._operators: list[Any] = []
        self._call = 0
        self._begin()

    def _begin(self) -> None:
        self._origins.clear()
        for tensor, name in self._stored:
            self._origins[tensor] = name

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call; yield what returns the program, given the leaves of its outputs."""
        self._call, self._operators = self._call + 1, []
        for place, tensor in enumerate(tensors_of(given)):
            self._origins[tensor] = self._call, "input", place
        before, self._drawn = self._state(), _torch_state()

        def program(outputs: list[Any]) -> Any:
            return [self._described(leaf) for leaf in outputs], self._operators

        def noted(*write: Any) -> None:
            self._writes = True

        self._writes = False
        with attribute_writes(noted), data_writes(noted), autocast_watched() as uses, self:
            yield program
        self.is_open |= self._writes or bool(uses) or before != self._state()

    def _state(self) -> Any:
        kind, keys, *rest = np.random.get_state()
        tables = [(name, id(tensor)) for name, tensor in named_tensors(self._network)]
        return tables, random.getstate(), kind, np.asarray(keys).tobytes(), rest, _torch_state()

    def _described(self, value: Any) -> Any:
        """Describe an argument by where it comes from, or by its value and type."""
        if isinstance(value, Tensor):
            origin = self._origins.get(value)
            if origin is None and _is_number(value):
                return value.dtype, value.shape, repr(value.item())  # which tells -0.0 from 0.0
            if origin is None:
                self._open()
                return None
            return origin if isinstance(origin, str) else (origin[0] - self._call, *origin[1:])
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
        if not self.views and torch.Tag.inplace_view in func.tags:  # of a tensor it would leave the views as they are
            self._open()
        self._check(func, args, kwargs)
        described = self._described(args)
        named = [(name, self._described(each)) for name, each in kwargs.items()]
        made: list[Any] = []  # sizes and types, which may hang on a default type that the network sets
        self._operators.append((func, described, named, made))
        place = len(self._operators)
        out = self._run(func, args, kwargs)
        if not self.views and func in _VIEWS and _same_place(args[0], out):
            self._operators.pop()
            self._origins[out] = self._origins[args[0]]
            return out
        for index, leaf in enumerate(out if isinstance(out, (list, tuple)) else [out]):
            if isinstance(leaf, Tensor):
                made.append((tuple(leaf.shape), leaf.dtype))
                self._origins.setdefault(leaf, (self._call, place, index))
            elif leaf is not None:
                self._open()
        return out

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """Raise _OpenError if this call of an operator depends on what no record shows."""

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _writes_parameter(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Tell whether an operator writes to a parameter, which would change what was trained."""
        written = [
            args[place] if place < len(args) else kwargs.get(argument.name)
            for place, argument in enumerate(op_arguments(func))
            if argument.is_write
        ]
        return any(storage_id(leaf) in self._parameters for leaf in pytree.tree_leaves(written) if leaf is not None)


class RealRun(_Recorder):
    """A record of one call with numbers, which the record does not disturb.

    Attributes:
        program: what was recorded; None if that says nothing.
    """

    program: tuple[list[Any], list[Any]] | None = None

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a copy of a model."""
        super().__init__(network, names)
        self._device = _device_of(network)

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call, as a context of :func:`~fxprune.equivalence.observation.observe`."""
        with super().recording(given) as program:

            def noted(outputs: list[Any]) -> None:
                with contextlib.suppress(_OpenError):
                    self.program = program(outputs)

            yield noted

    def _open(self) -> None:
        self.is_open = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_open:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        elsewhere = kwargs.get("device") not in (None, self._device)
        if elsewhere or torch.Tag.nondeterministic_seeded in func.tags:
            self._open()


class MetaRun(_Recorder):
    """A copy of a network on the meta device, and a mode that records its operators."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        self._device = _device_of(network)

        def without_numbers(name: str, tensor: Tensor) -> Tensor:
            is_constant = name not in names and _is_number(tensor)
            return tensor.clone() if is_constant else torch.empty_like(tensor, device=_META)

        super().__init__(map_tensors(network, without_numbers).eval(), names)

    def begin(self, training: bool, may_make: Set[str] | None) -> None:
        """Set the mode and what calls may make; no tensor of earlier ones stays known."""
        self.made: set[str] = set()  # by operators without an origin for what they return
        self._may_make = may_make
        self._network.train(training)
        self._begin()

    def call(self, inputs: Inputs) -> Any:
        """Record a call with its results."""
        given = as_meta(inputs)
        with self.recording(given) as program:
            with _Functions(self._device, self._operators):
                outputs = leaves_of(run_on(self._network, given))
            return program(outputs)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        # On meta nothing is drawn, so that only a seed changes the generator, which a trace does not record.
        if torch.Tag.nondeterministic_seeded in func.tags and _torch_state() != self._drawn:
            self._open()
        if takes_device(func) and op_name(func) not in _SCRATCH:
            self._make(func, args, kwargs)

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return run_meta(func, args, {**kwargs, "device": _META} if takes_device(func) else kwargs)

    def _make(self, func: Any, args: Any, kwargs: Any) -> None:
        """Note what an operator is asked to make, or refuse what may not be made."""
        plain = {name: each for name, each in kwargs.items() if name != "device"}
        asked = str((func, pytree.tree_map_only(Tensor, lambda x: (x.shape, x.dtype), (args, plain))))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)


def _is_number(tensor: Tensor) -> bool:
    """Tell whether a tensor of no module is a constant of one number, as a mask's ``torch.tensor(-inf)``."""
    return type(tensor) is Tensor and tensor.layout == torch.strided and tensor.numel() == 1 and not tensor.is_meta


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Tell whether a view has the sizes, strides and first number of its tensor."""
    return (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())


def _device_of(network: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in named_tensors(network)), torch.device("cpu"))


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
