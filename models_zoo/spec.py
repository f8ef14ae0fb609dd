"""Build a wide network again from a name and a few bounded arguments of a closed list."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxprune.errors import CheckpointError, ModelError, OptionError
from fxprune.pytorch.precision import dtype_name
from fxprune.pytorch.torch_private import TorchDispatchMode, makes_storage, pytree, takes_device

FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The arguments that `build` and `widen` give to builders, and their largest values. Other arguments of a builder may
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
    """The name and the arguments with which ``create_model`` builds the wide network again.

    Attributes:
        name: model name.
        kwargs: its arguments, some of ``ARGUMENTS``. Published weights are never fetched.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise OptionError if a saved network may not have the name or one of the arguments."""
        if not isinstance(self.name, str) or not isinstance(self.kwargs, Mapping):
            raise OptionError(
                f"a ModelSpec has a name and arguments by name, as ('resnet50', {{'num_classes': 10}}), not "
                f"{str(self.name)[:40]!r} and {str(self.kwargs)[:40]}."
            )
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
        """Build the wide network with arbitrary weights; the CPU's random state stays as it is.

        Raises:
            ModelError: it cannot be built with these arguments, or the number of its classes is not among them.
        """
        from .registry import create_model

        if "num_classes" not in self.kwargs:
            raise ModelError(f"`{self.name}` cannot be built: nothing says how many classes it has (`num_classes`).")
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = create_model(self.name, **{**self.kwargs, "pretrained": False})
        return model

    def to_json(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return all that :func:`spec_from_json` needs; ``dtype`` is that of the weights."""
        self.check()
        kind = dtype_name(dtype)
        return {"factory": "zoo", "name": self.name, "kwargs": dict(self.kwargs), "dtype": kind}


def spec_from_json(value: Any, where: str | os.PathLike[str]) -> tuple[ModelSpec, torch.dtype]:
    """Read name, arguments and dtype of a wide network from JSON.

    Raises:
        CheckpointError: the JSON is something else, or has an argument that a saved network cannot have.
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
    """Build the network, but stop if it makes more numbers than tensors of these shapes need.

    Builders make most numbers once, and up to four times if an initialisation makes new ones; a builder that makes more
    builds another network.

    Raises:
        CheckpointError: it makes more numbers.
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
    """A builder makes more numbers than allowed."""


def _too_many(error: BaseException | None) -> bool:
    """Tell whether an error comes from a :class:`_TooManyError`, which builders may wrap."""
    while error is not None and not isinstance(error, _TooManyError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Counting(TorchDispatchMode):
    """Count the numbers that an operation makes, before it allocates memory for them."""

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
