"""Records of the operators of calls on the meta device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.arguments.inputs import Inputs, as_meta, run_on
from fxprune.pytorch.meta.kernels import make_again, run_meta
from fxprune.pytorch.modules import PLACES, map_tensors
from fxprune.pytorch.torch_private import OpOverload, draws, no_dispatch, op_name, takes_device

from .layers import Settings
from .observation import leaves_of
from .recorder import ATTENTION, Recorder, attention_key, device_of, is_number, torch_state

_META = torch.device("meta")
# They make what an operator fills at once, as that of dropout.
_SCRATCH = ("aten::empty_like", "aten::new_empty")


class MetaRun(Recorder):
    """A copy of a network on the meta device, and a mode that records its operators."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        self._device = device_of(network)

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
        with self.recording(given) as program:
            with _Functions(self._device, self._attention):
                outputs = leaves_of(run_on(self._network, given))
            return program(outputs)

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
        asked = func, _asked((args, plain))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)


def _asked(value: Any) -> Any:
    """Describe what an operator is asked to make, by values with their types."""
    if isinstance(value, (list, tuple)):
        return tuple([_asked(each) for each in value])
    return (value.shape, value.dtype) if isinstance(value, Tensor) else (type(value), value)


class _Functions(TorchFunctionMode):
    """Tensors say that they are on the model's device, and attention is recorded."""

    def __init__(self, device: torch.device, attention: Callable[[Any, Any], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._attention = attention
        self._answers = {getattr(Tensor, name).__get__: place(device) for name, place in PLACES.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._answers:
            return self._answers[func]
        if func is ATTENTION:
            return self._attention(args, kwargs or {})
        return func(*args, **(kwargs or {}))
