"""Record the operators of calls on the meta device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Set
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.arguments.inputs import Inputs, as_meta, run_on
from fxprune.pytorch import data_writes
from fxprune.pytorch.meta import make_again, run_meta
from fxprune.pytorch.modules import OF_DEVICES, map_tensors
from fxprune.pytorch.source import is_graph, is_machinery, line_of
from fxprune.pytorch.torch_private import HANDED_ON, OpOverload, draws, no_dispatch, op_name, takes_device

from ..observation import leaves_of
from .layers import Settings
from .recorder import ATTENTION, Recorder, attention_key, device_of_tensors, is_number, torch_state

_META = torch.device("meta")
# They make what an operator fills at once, as that of dropout.
_SCRATCH = ("aten::empty_like", "aten::new_empty")


# Questions of sizes by their names; one name stands for all.
_SIZES = dict.fromkeys(("size", "shape", "numel", "nelement", "__len__"), "size")
RANK = "number of dimensions"
_RANKS = dict.fromkeys(("dim", "ndim", "ndimension"), RANK)
_OF_SIZES = {*_SIZES.values(), *_RANKS.values()}
# Bound here, since that in `torch` is watched.
_is_autocast = torch.is_autocast_enabled
# Where a question of a method in Python is handed on, or of one that is watched.
_HANDED_ON = *HANDED_ON, data_writes.__file__

# What is asked, and where the tensor comes from -> line of the question, sizes and type of the tensor.
Questions = dict[tuple[str, Any], tuple[str, Any]]


def autocast_now() -> tuple[bool, bool]:
    """Tell whether autocast is on, for CPUs and for CUDA devices."""
    return _is_autocast("cpu"), _is_autocast("cuda")


class MetaRun(Recorder):
    """A copy of a network on the meta device, and a mode that records its operators.

    Attributes:
        asked: what the latest call asked of computed tensors, for which Python code got no tensor.
        asked_of_constants: a call asked one, not of sizes, of a tensor that comes of no input and no stored tensor.
    """

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        self._device, self.asked_of_constants = device_of_tensors(network), False
        self.asked: Questions = {}

        def without_numbers(name: str, tensor: Tensor) -> Tensor:
            is_constant = name not in names and is_number(tensor)
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
        self.asked = {}
        if torch.is_grad_enabled():  # asked for, not recorded: PyTorch would run operators of its own
            self._network.requires_grad_(False)
        with self.recording(given) as program:
            self._autocast = autocast_now()
            with _Functions(self._device, self._attention, self._ask, self._note_island):
                outputs = leaves_of(run_on(self._network, given))
            return program(outputs)

    def _layer(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        self._note_island()
        return super()._layer(layer, settings, forward, args)

    def _note_island(self) -> None:
        """Note autocast before PyTorch turns it off for the operators inside of a function."""
        now = autocast_now()
        self.island = None if now == self._autocast else now

    def _ask(self, function: Any, tensor: Tensor, asker: FrameType) -> None:
        """Note what code of a network asks of a tensor, or that of its graph."""
        name, asker = asked(function, asker)
        path = asker.f_code.co_filename
        if self._paused or (is_machinery(path) and not is_graph(path)):
            return
        what = _SIZES.get(name) or _RANKS.get(name) or name
        origin = self._origin(tensor)
        if origin is None or not self._is_computed(origin):
            self.asked_of_constants = self.asked_of_constants or not (what in _OF_SIZES or name in OF_DEVICES)
            return
        if isinstance(origin, str) and what in _OF_SIZES:  # those of stored tensors stay
            return
        maker = origin if isinstance(origin, str) else origin[1:]
        with no_dispatch():
            self.asked.setdefault((what, maker), (line_of(asker), (tuple(tensor.shape), tensor.dtype)))

    def _attended(self, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        if (known := self.attended.get(attention_key(args, kwargs))) is None:
            return super()._attended(args, kwargs, run)
        size, stride, kind = known
        with no_dispatch():
            return torch.empty_strided(size, stride, dtype=kind, device=_META)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        # On meta nothing is drawn, so that only a seed changes the generator, which a trace does not record.
        if draws(func) and torch_state() != self._drawn:
            self._open()
        if takes_device(func) and op_name(func) not in _SCRATCH:
            self._make(func, args, kwargs)

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return run_meta(func, args, {**kwargs, "device": _META} if takes_device(func) else kwargs)

    def _unrecorded(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        run = functools.partial(super()._unrecorded, layer, settings, forward, args)
        # A number of rank 0 counts calls.
        constants, tensors = settings
        sized = [each for _, each in tensors if not isinstance(each, Tensor) or each.dim()]
        return make_again(((type(layer), constants), args, sized), run)

    def _make(self, func: Any, args: Any, kwargs: Any) -> None:
        """Note what an operator is asked to make, or refuse what may not be made."""
        plain = [each for each in kwargs.items() if each[0] != "device"]
        asked = func, _request((args, plain))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)


def _request(value: Any) -> Any:
    """Describe what an operator is asked to make, by values with their types."""
    if isinstance(value, (list, tuple)):
        return tuple([_request(each) for each in value])
    return (value.shape, value.dtype) if isinstance(value, Tensor) else (type(value), value)


class _Functions(TorchFunctionMode):
    """Tensors say that they are on the model's device, and attention is recorded."""

    def __init__(
        self,
        device: torch.device,
        attention: Callable[[Any, Any], Any],
        ask: Callable[[Any, Tensor, FrameType], None],
        note: Callable[[], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._attention, self._ask, self._note = attention, ask, note
        self._answers = {getattr(Tensor, name).__get__: answer(device) for name, answer in OF_DEVICES.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note()
        if func is ATTENTION:
            return self._attention(args, kwargs or {})
        out = self._answers[func] if func in self._answers else func(*args, **(kwargs or {}))
        if not isinstance(out, Tensor) and args and isinstance(args[0], Tensor) and _is_answer(func, out):
            self._ask(func, args[0], sys._getframe(1))
        return out


def asked(function: Any, asker: FrameType) -> tuple[str, FrameType]:
    """Return what a function of tensors tells, and the frame that asks for it."""
    name = function.__name__ if function.__name__ != "__get__" else getattr(function.__self__, "__name__", "")
    while asker.f_code.co_filename in _HANDED_ON and asker.f_code.co_name in ("handle_torch_function", "call", name):
        assert asker.f_back is not None
        asker = asker.f_back
    return name, asker


def _is_answer(function: Any, out: Any) -> bool:
    """Tell whether what a function returned is no tensor, nor one that it may write to."""
    if out is None:
        return bool(function.__name__ == "__get__")
    return not (isinstance(out, (tuple, list)) and any(isinstance(each, Tensor) for each in out))
