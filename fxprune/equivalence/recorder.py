"""Records of the operators that a call runs, with numbers or on the meta device."""

from __future__ import annotations

import contextlib
import functools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.arguments.inputs import Inputs, as_meta, run_on, tensors_of
from fxprune.pytorch.data_writes import attribute_writes, data_writes
from fxprune.pytorch.meta_kernels import make_again, run_meta
from fxprune.pytorch.modules import PLACES, map_tensors, named_tensors
from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    draws,
    is_mutable,
    op_arguments,
    op_name,
    pytree,
    storage_id,
    takes_device,
)

from .layers import Settings, layers_recorded
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
        # By identity: a tensor, and its stored name; or the call, and its operator or input there.
        self._origins: dict[int, tuple[weakref.ref[Tensor], Any]] = {}
        # A constant that only the graph stores has no name in the model.
        self._stored = [(tensor, names[name]) for name, tensor in reversed(named_tensors(network)) if name in names]
        self._parameters = set(map(storage_id, network.parameters()))
        self._operators: list[Any] = []
        self._made: list[list[Any]] = []  # by each operator: sizes and types, which may hang on a default type
        self._read: set[tuple[Any, ...]] = set()  # by later operators, or by the caller
        self._call, self._paused = 0, False
        self._begin()

    def _begin(self) -> None:
        self._origins.clear()
        for tensor, name in self._stored:
            self._comes_from(tensor, name)

    def _origin(self, tensor: Tensor) -> Any:
        found = self._origins.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _comes_from(self, tensor: Tensor, origin: Any) -> None:
        self._origins[id(tensor)] = weakref.ref(tensor), origin

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call; yield what returns the program, given the leaves of its outputs."""
        self._call, self._operators, self._made, self._read = self._call + 1, [], [], set()
        for place, tensor in enumerate(tensors_of(given)):
            self._comes_from(tensor, (self._call, "input", place))
        before, self._drawn = self._state(), _torch_state()

        def program(outputs: list[Any]) -> Any:
            returned = [self._described(leaf) for leaf in outputs]
            for place, made in enumerate(self._made, 1):  # the sizes of what nobody reads hang on the device
                made[:] = [each for each in made if (place, each[0]) in self._read]
            return returned, self._operators

        def noted(*write: Any) -> None:
            self._writes = True

        self._writes = False
        layers = layers_recorded(self._network, self._layer) if self.views else contextlib.nullcontext()
        with attribute_writes(noted), data_writes(noted), autocast_watched() as uses, layers, self:
            yield program
        self.is_open |= self._writes or bool(uses) or before != self._state()

    def _state(self) -> Any:
        kind, keys, *rest = np.random.get_state()
        tables = [(name, id(tensor)) for name, tensor in named_tensors(self._network)]
        return tables, random.getstate(), kind, np.asarray(keys).tobytes(), rest, _torch_state()

    def _described(self, value: Any) -> Any:
        """Describe an argument by where it comes from, or by its value and type."""
        if isinstance(value, Tensor):
            origin = self._origin(value)
            if origin is None and _is_number(value):
                return value.dtype, value.shape, repr(value.item())  # which tells -0.0 from 0.0
            if origin is None:
                self._open()
                return None
            if isinstance(origin, str):
                return origin
            self._read.add(origin[1:])
            return origin[0] - self._call, *origin[1:]
        if isinstance(value, (list, tuple)):
            return list(map(self._described, value))
        return type(value), value

    def _open(self) -> None:
        self.is_open = True  # in case that the network handles the error
        raise _OpenError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return self._run(func, args, kwargs)
        if not isinstance(func, OpOverload) or (is_mutable(func) and self._writes_parameter(func, args, kwargs)):
            self._open()
        if not self.views and torch.Tag.inplace_view in func.tags:  # of a tensor it would leave the views as they are
            self._open()
        self._check(func, args, kwargs)
        out = self._recorded(func, args, kwargs.items(), lambda: self._run(func, args, kwargs))
        if not self.views and func in _VIEWS and _same_place(args[0], out):
            self._operators.pop()
            self._made.pop()
            self._comes_from(out, self._origin(args[0]))
        return out

    def _recorded(self, what: Any, args: Any, named: Iterable[tuple[str, Any]], run: Callable[[], Any]) -> Any:
        """Record one operator or layer, and run it."""
        made: list[Any] = []
        described = self._described(args), [(name, self._described(each)) for name, each in named]
        self._operators.append((what, *described, made))
        self._made.append(made)
        place = len(self._made)
        out = run()
        for index, leaf in enumerate(pytree.tree_leaves(out) if isinstance(out, (list, tuple)) else [out]):
            if isinstance(leaf, Tensor):
                made.append((index, tuple(leaf.shape), leaf.dtype))
                if self._origin(leaf) is None:
                    self._comes_from(leaf, (self._call, place, index))
            elif leaf is not None:
                self._open()
        return out

    def _layer(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        """Record a call of a layer, whose operators are not recorded."""
        return self._recorded(type(layer), args, settings, lambda: self._unrecorded(layer, settings, forward, args))

    def _unrecorded(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        before, self._paused = self._paused, True
        try:
            return forward(*args)
        finally:
            self._paused = before

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

    def _layer(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        return forward(*args) if self.is_open else super()._layer(layer, settings, forward, args)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        elsewhere = kwargs.get("device") not in (None, self._device)
        if elsewhere or draws(func):
            self._open()


class MetaRun(_Recorder):
    """A copy of a network on the meta device, and a mode that records its operators."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        self._device = _device_of(network)

        def without_numbers(name: str, tensor: Tensor) -> Tensor:
            is_constant = name not in names and _is_number(tensor)
            return tensor.clone() if is_constant else torch.empty_like(tensor, device=_META)

        super().__init__(map_tensors(network, without_numbers, only_runs=True).eval(), names)

    def begin(self, training: bool, may_make: Set[Any] | None) -> None:
        """Set the mode and what calls may make; no tensor of earlier ones stays known."""
        self.made: set[Any] = set()  # by operators without an origin for what they return
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
        if draws(func) and _torch_state() != self._drawn:
            self._open()
        if takes_device(func) and op_name(func) not in _SCRATCH:
            self._make(func, args, kwargs)

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return run_meta(func, args, {**kwargs, "device": _META} if takes_device(func) else kwargs)

    def _unrecorded(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        run = functools.partial(super()._unrecorded, layer, settings, forward, args)
        # A number of rank 0 counts calls.
        sized = [each for _, each in settings if not isinstance(each, Tensor) or each.dim()]
        return make_again((type(layer), args, sized), run)

    def _make(self, func: Any, args: Any, kwargs: Any) -> None:
        """Note what an operator is asked to make, or refuse what may not be made."""
        plain = [each for each in kwargs.items() if each[0] != "device"]
        asked = func, _asked((args, plain))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)


def _asked(value: Any) -> Any:
    """Describe what an operator is asked to make, by values with their types."""
    if isinstance(value, (list, tuple)):
        return tuple([_asked(each) for each in value])
    return (value.shape, value.dtype) if isinstance(value, Tensor) else (type(value), value)


def _is_number(tensor: Tensor) -> bool:
    """Tell whether a tensor is a constant of one number, as a mask's ``torch.tensor(-inf)``."""
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
