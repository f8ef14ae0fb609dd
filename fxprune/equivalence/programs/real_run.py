"""Record the operators of a call with numbers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.data_writes import number_reads
from fxprune.pytorch.torch_private import OpOverload, draws, strides_of

from .layers import Settings
from .recorder import ATTENTION, OpenError, Recorder, attention_key, device_of_tensors


class RealRun(Recorder):
    """A record of one call with numbers, which the record does not disturb.

    Attributes:
        program: what was recorded; None if that says nothing.
        reads_numbers: the call read numbers of a tensor by no operator, so that no program shows what it did with them.
    """

    program: tuple[list[Any], list[Any]] | None = None
    reads_numbers = False

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a copy of a model."""
        super().__init__(network, names)
        self._device = device_of_tensors(network)

    @property
    def holds_questions(self) -> bool:
        """Tell whether the network holds functions of autocast that no watch of names sees."""
        return any("autocast" in text for texts in self._kept[1].values() for text in texts)

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call, as a context of :func:`~fxprune.equivalence.observation.observe`."""
        with super().recording(given) as program, self._attention_recorded(), number_reads(self._read_numbers):

            def noted(outputs: list[Any]) -> None:
                with contextlib.suppress(OpenError):
                    self.program = program(outputs)

            yield noted

    @contextlib.contextmanager
    def _attention_recorded(self) -> Iterator[None]:
        """Record attention under the name by which networks call it; a mode would show to them."""

        @functools.wraps(ATTENTION)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._attention(args, kwargs)

        given = F.scaled_dot_product_attention
        if given is ATTENTION:  # not one of somebody else
            F.scaled_dot_product_attention = call
        try:
            yield
        finally:
            F.scaled_dot_product_attention = given

    def _read_numbers(self, _: Any) -> None:
        self.is_open = self.reads_numbers = True

    def _open(self) -> None:
        self.is_open = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_open:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _layer(self, layer: nn.Module, settings: Settings, forward: Callable[..., Any], args: Any) -> Any:
        return forward(*args) if self.is_open else super()._layer(layer, settings, forward, args)

    def _attended(self, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        out = super()._attended(args, kwargs, run)
        self.attended[attention_key(args, kwargs)] = out.shape, strides_of(out), out.dtype
        return out

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        elsewhere = kwargs.get("device") not in (None, self._device)
        if elsewhere or draws(func):
            self._open()
