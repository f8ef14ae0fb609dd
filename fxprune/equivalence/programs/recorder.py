"""Record the operators that a call runs, and where their tensors come from."""

from __future__ import annotations

import contextlib
import functools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, tensors_of
from fxprune.pytorch.data_writes import attribute_writes, data_writes
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    pytree,
    storage_id,
    strides_of,
    written_by,
)

from ..contents import Constants, contents_of
from ..observation import attributes_in, autocast_watched
from .layers import Settings, is_plain, layers_recorded, own_modes_only

ATTENTION: Any = F.scaled_dot_product_attention
# They may return their tensor as it is; gradients pass through.
_VIEWS = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.slice.Tensor)


class OpenError(Exception):
    """The program depends on what no record shows."""


class Recorder(TorchDispatchMode):
    """A mode that records the operators of a network, and where their tensors come from.

    Attributes:
        is_open: the program depends on what no record shows, or a call changes more than tensors and contents.
        keeps: a call changed the contents of the network, which a later one may read.
        island: the autocast of the next operator where it is not that of the caller, if it is known.
    """

    supports_higher_order_operators = True  # or PyTorch raises an error instead of asking, which a network may catch

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a network whose tensors are those of the model under other ``names``."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_open, self.keeps, self.views = False, False, True
        self.island: Any = None
        # What attention returned on numbers, by what it got: sizes, strides and type.
        self.attended: dict[Any, tuple[Any, ...]] = {}
        self._network = network
        self._constants: Constants = {}  # of the network
        # By identity: a tensor, and its stored name; or the call, and its operator or input there.
        self._origins: dict[int, tuple[weakref.ref[Tensor], Any]] = {}
        # A constant that only the graph stores has no name in the model.
        self._stored = [(tensor, names[name]) for name, tensor in reversed(named_tensors(network)) if name in names]
        self._parameters = set(map(storage_id, network.parameters()))
        self._operators: list[Any] = []
        self._computed: set[int] = set()  # operators that read an input or a stored tensor, or what comes of one
        self._made: list[list[Any]] = []  # by each operator: sizes and types, which may depend on a default type
        self._read: set[tuple[Any, ...]] = set()  # by later operators, or by the caller
        self._call, self._paused, self._reads = 0, False, False
        self._begin()

    def _begin(self) -> None:
        self._kept: Any = None  # the state after the latest call
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
        self._computed, self._gradients, self.island = set(), torch.is_grad_enabled(), None
        for place, tensor in enumerate(tensors_of(given)):
            self._comes_from(tensor, (self._call, "input", place))
        before, self._drawn = self._kept or self._state(), torch_state()

        def program(outputs: list[Any]) -> Any:
            returned = [self._described(leaf) for leaf in outputs]
            self.keeps |= bool(attributes_in((given, outputs)))
            for place, made in enumerate(self._made, 1):  # the device determines the sizes of unread results
                made[:] = [each for each in made if (place, each[0]) in self._read]
            return returned, self._operators

        def noted(*write: Any) -> None:
            self._writes = True

        self._writes = False
        layers = layers_recorded(self._network, self._layer) if self.views else contextlib.nullcontext()
        with attribute_writes(noted), data_writes(noted), autocast_watched(self._network) as uses, layers, self:
            yield program
        self._kept = self._state()
        self.is_open |= self._writes or bool(uses) or before[0] != self._kept[0]
        self.keeps |= before[1] != self._kept[1]

    def _state(self) -> tuple[Any, Any]:
        """Describe what a call could leave to a later one, contents apart; nothing for a graph."""
        if isinstance(self._network, fx.GraphModule):
            return (), {}
        kind, keys, *rest = np.random.get_state()
        tables = [(name, id(tensor)) for name, tensor in named_tensors(self._network)]
        state = tables, random.getstate(), kind, np.asarray(keys).tobytes(), rest, torch_state()
        return state, contents_of(list(self._network.modules()), self._constants)

    def _is_computed(self, origin: Any) -> bool:
        """Tell whether a tensor is an input or a stored one, or comes of one."""
        return isinstance(origin, str) or origin[1] == "input" or origin[1] in self._computed

    def _own_modes(self) -> Any:
        """Return the modes in which an operator runs, where they are not those of the caller."""
        gradients = torch.is_grad_enabled()
        return None if gradients == self._gradients and self.island is None else (gradients, self.island)

    def _described(self, value: Any) -> Any:
        """Describe an argument by where it comes from, or by its value and type."""
        if isinstance(value, Tensor):
            origin = self._origin(value)
            if origin is None and is_number(value):
                return value.dtype, value.shape, repr(value.item())  # which tells -0.0 from 0.0
            if origin is None:
                self._open()
                return None
            self._reads = self._reads or self._is_computed(origin)
            if isinstance(origin, str):
                return origin
            self._read.add(origin[1:])
            return origin[0] - self._call, *origin[1:]
        if isinstance(value, (list, tuple)):
            return list(map(self._described, value))
        return type(value), value

    def _open(self) -> None:
        self.is_open = True  # in case that the network handles the error
        raise OpenError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return self._run(func, args, kwargs)
        if not isinstance(func, OpOverload):
            self._open()
            return func(*args, **kwargs)
        if is_mutable(func) and self._writes_parameter(func, args, kwargs):
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
        self._reads = False
        described = self._described(args), [(name, self._described(each)) for name, each in named]
        self._operators.append((what, *described, made, self._own_modes()))
        self._made.append(made)
        place = len(self._made)
        if self._reads:
            self._computed.add(place)
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
        constants, tensors = settings
        run = functools.partial(self._unrecorded, layer, settings, forward, args)
        return self._recorded((type(layer), constants), args, tensors, run)

    def _unrecorded(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        before, self._paused = self._paused, True
        try:
            return forward(*args)
        finally:
            self._paused = before

    def _attention(self, args: Any, kwargs: Any) -> Any:
        """Record attention as one operator, since devices decompose it in other ways.

        Autocast sees one function, too. With dropout, which draws, where a mode or a kind of tensor of somebody else
        may change what it computes, or where views do not count, its operators are recorded behind it.
        """
        run = functools.partial(ATTENTION, *args, **kwargs)
        if self._paused or self.is_open:
            return run()
        draws = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0) != 0.0
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if draws or not self.views or not (all(map(is_plain, tensors)) and own_modes_only()):
            self._operators.append((ATTENTION, [], [], [], self._own_modes()))
            return run()
        return self._recorded(ATTENTION, args, kwargs.items(), lambda: self._attended(args, kwargs, run))

    def _attended(self, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        """Run attention, whose operators are not recorded."""
        before, self._paused = self._paused, True
        try:
            return run()
        finally:
            self._paused = before

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """Raise OpenError if this call of an operator depends on what no record shows."""

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _writes_parameter(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Tell whether an operator writes to a parameter, which would change what was trained."""
        return any(storage_id(tensor) in self._parameters for tensor in written_by(func, args, kwargs))


def attention_key(args: Any, kwargs: Any) -> Any:
    """Describe what the sizes and strides of attention depend on."""
    return tuple([_sizes(each) for each in (*args, *sorted(kwargs.items()))])


def _sizes(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_sizes, value))
    return (value.shape, strides_of(value), value.dtype) if isinstance(value, Tensor) else (type(value), value)


def is_number(tensor: Tensor) -> bool:
    """Tell whether a tensor is a constant of one number, as a mask's ``torch.tensor(-inf)``."""
    return type(tensor) is Tensor and tensor.layout == torch.strided and tensor.numel() == 1 and not tensor.is_meta


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Tell whether a view has the sizes, strides and first number of its tensor."""
    return (a.shape, strides_of(a), a.storage_offset()) == (b.shape, strides_of(b), b.storage_offset())


def device_of_tensors(network: nn.Module) -> torch.device:
    """Return the device of the first tensor of a network."""
    return next((tensor.device for _, tensor in named_tensors(network)), torch.device("cpu"))


def torch_state() -> bytes:
    """Return the state of PyTorch's random numbers."""
    return torch.get_rng_state().numpy().tobytes()
