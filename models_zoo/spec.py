"""How a wide network is built again: a name and a few arguments, from a closed list, within bounds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxprune.common.torch_private import TorchDispatchMode, makes_storage, pytree, takes_device
from fxprune.errors import CheckpointError, OptionError

FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What `build` and `widen` give to builders, and how large each may be. Whatever else a builder takes may
# open files, fetch weights or build for hours.
ARGUMENTS: Mapping[str, tuple[tuple[type, ...], float]] = {
    "num_classes": ((int,), 1_000_000),
    "in_chans": ((int,), 4096),
    "img_size": ((int,), 8192),
    "image_size": ((int,), 8192),
    "width": ((int, float), 64),
    "width_mult": ((int, float), 64),
    "width_per_group": ((int,), 65536),
    "base_width": ((int,), 65536),
}


@dataclass(frozen=True)
class ModelSpec:
    """How to build the wide network again: ``create_model(name, **kwargs)`` of ``fxprune.models_zoo.registry``.

    Attributes:
        name: model name.
        kwargs: its arguments, some of ``ARGUMENTS``. Published weights are never fetched.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise OptionError where an argument is not one that a saved network may have."""
        for name, value in self.kwargs.items():
            if name not in ARGUMENTS:
                raise OptionError(
                    f"`{name[:40]}` is no argument that a saved network is built with again: those are "
                    f"{', '.join(ARGUMENTS)}. Save it without `model`, and give load(..., model=) the wide network."
                )
            kinds, largest = ARGUMENTS[name]
            if type(value) not in kinds or not 0 <= value <= largest or (value == 0 and name != "num_classes"):
                raise OptionError(f"the argument `{name}` must be a number up to {largest:,}, not {str(value)[:40]}.")

    def build(self) -> nn.Module:
        """Wide network with arbitrary weights; the random state of the process stays as it is."""
        from .registry import create_model

        with torch.random.fork_rng(devices=[]):
            model: nn.Module = create_model(self.name, **{**self.kwargs, "pretrained": False})
        return model

    def to_json(self, dtype: torch.dtype) -> dict[str, Any]:
        """Everything that :func:`spec_from_json` needs; ``dtype``: of the network's weights."""
        self.check()
        kind = str(dtype).removeprefix("torch.")
        return {"factory": "zoo", "name": self.name, "kwargs": dict(self.kwargs), "dtype": kind}


def spec_from_json(value: Any, where: str | os.PathLike[str]) -> tuple[ModelSpec, torch.dtype]:
    """Name, arguments and type of the weights of a wide network.

    Raises:
        CheckpointError: it is none, or has an argument that a saved network cannot have.
    """
    match value:
        case {"factory": "zoo", "name": str(name), "kwargs": dict(kwargs), "dtype": str(kind), **rest} if not rest:
            if kind in FLOATS and len(name) <= 200:
                spec = ModelSpec(name, kwargs)
                try:
                    spec.check()
                except OptionError as error:
                    raise CheckpointError(f"{os.fspath(where)} is damaged: {error}") from error
                return spec, FLOATS[kind]
    raise CheckpointError(f"{os.fspath(where)} is damaged: `model` is {str(value)[:80]}. Save the network again.")


def build_within(spec: ModelSpec, shapes: Mapping[str, Sequence[int]], where: str | os.PathLike[str]) -> nn.Module:
    """The network, if it makes no more numbers than one with tensors of these shapes does.

    Builders make most numbers once, and up to four times where an initialisation makes new ones; beyond that it is
    another network.

    Raises:
        CheckpointError: it makes more.
        ModelError: it cannot be built.
    """
    numbers = sum(map(math.prod, shapes.values()))
    limit = 6 * numbers + (1 << 24)
    try:
        with _Counting(limit):  # type: ignore[no-untyped-call]
            return spec.build()
    except Exception as error:
        if _too_many(error):
            raise CheckpointError(
                f"{os.fspath(where)} was not saved from `{spec.name}` with {dict(spec.kwargs)}: that has more than "
                f"{limit:,} numbers, and the plan is for a network of {numbers:,}."
            ) from error
        raise


class _TooManyError(Exception):
    """More numbers than were allowed."""


def _too_many(error: BaseException | None) -> bool:
    """Whether this is why; builders may have wrapped it."""
    while error is not None and not isinstance(error, _TooManyError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Counting(TorchDispatchMode):
    """Asks how many numbers an operation is going to make before there is memory for them."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = limit

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs)))
        if made and takes_device(func):
            self._count(func(*args, **kwargs | {"device": torch.device("meta")}))
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if makes_storage(func):  # neither a view, nor in place
            self._count(out)
        return out

    def _count(self, out: Any) -> None:
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._left -= leaf.numel()
        if self._left < 0:
            raise _TooManyError
