"""Divide batches of any form into inputs of a network and targets of a loss.

==================================  =======================================  ===================================
a batch                             inputs                                   targets
==================================  =======================================  ===================================
a pair ``(inputs, targets)``        the first: a tensor, or a tuple or dict  the second, of any form
``(a, b, ..., targets)``            all but the last, in order               the last
a dict                              entries that ``forward`` takes, by name  all other entries, as a dict
==================================  =======================================  ===================================

An entry of a dict whose name contains ``label`` or ``target`` is a target, even if ``forward`` takes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxprune.arguments.inputs import as_inputs, tensors_of
from fxprune.errors import DataError
from fxprune.pytorch.torch_private import pytree

from .dataset import Data, Loader

_TARGETS = ("label", "target")


@dataclass(frozen=True, eq=False)
class Pairs:
    """A loader that divides the batches of another one.

    Attributes:
        loader: gives batches of any form, and has a length.
        arguments: names that the network's ``forward`` takes.
        which: of the two loaders, for messages.
    """

    loader: Any
    arguments: Collection[str]
    which: str

    def __len__(self) -> int:
        """Return the number of batches of one pass."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield inputs and targets for one pass."""
        for batch in self.loader:
            yield self._divided(batch)

    def _divided(self, batch: Any) -> tuple[Any, Any]:
        if isinstance(batch, Mapping):
            inputs = {name: batch[name] for name in batch if self._is_input(name)}
            targets = {name: batch[name] for name in batch if name not in inputs}
            if inputs:
                return inputs, targets
            raise DataError(
                f"a batch of the {self.which} loader has the entries {', '.join(map(str, batch))}, and the network "
                f"takes {', '.join(self.arguments)}: none of them is an input."
            )
        if isinstance(batch, list | tuple) and len(batch) >= 2:
            *given, targets = batch
            return given[0] if len(given) == 1 else tuple(given), targets
        raise DataError(
            f"a batch of the {self.which} loader must be a pair of inputs and targets, more inputs before the targets, "
            f"or a dict, not {type(batch).__name__}."
        )

    def _is_input(self, name: Any) -> bool:
        return name in self.arguments and not any(word in str(name) for word in _TARGETS)


def data_from_pairs(train: Loader, test: Loader, model: object) -> Data:
    """Make data of any inputs and targets from two loaders of the user.

    Args:
        train: batches in a form of this module's table, with a length; shuffled and augmented.
        test: the same, in a fixed order, every sample once.
        model: the network, whose ``forward`` names its arguments; or a name, of a network that takes images.

    Raises:
        DataError: a loader has no length or no batch, or yields something else.
    """
    arguments = [*inspect.signature(model.forward).parameters] if isinstance(model, nn.Module) else ["x"]
    pairs = Pairs(train, arguments, "training"), Pairs(test, arguments, "test")
    for each in pairs:
        try:
            count = len(each)
        except TypeError as error:
            raise DataError(
                f"the {each.which} loader has no length, which the learning rate goes by: {error}."
            ) from error
        if not count:
            raise DataError(f"the {each.which} loader has no batch.")
    inputs, _ = next(iter(pairs[1]))
    example = first_samples(inputs, 2)
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
    channels, size = (shape[0], shape[1]) if len(shape) == 3 and shape[1] == shape[2] else (0, 0)
    return Data("loaders", 0, channels, size, pairs[0], pairs[1], (0.0,) * channels, (1.0,) * channels, example=example)


def samples_in(inputs: Any) -> int:
    """Count the samples of a batch: the length of the first tensor."""
    return next((len(x) for x in tensors_of(as_inputs(inputs)) if x.dim()), 0)


def first_samples(inputs: Any, count: int) -> Any:
    """Return a batch with its first samples only, of every tensor that has as many as the first."""
    total = samples_in(inputs)
    return pytree.tree_map_only(Tensor, lambda x: x[:count] if x.dim() and len(x) == total else x, inputs)
