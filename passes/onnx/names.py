"""Name the flat inputs and outputs of a file by their places in the network's structures."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from fxprune.arguments.inputs import Inputs, names_by_place, run_on
from fxprune.arguments.records import plain
from fxprune.passes.verify import named_outputs
from fxprune.pytorch.torch_private import pytree


def input_names(module: nn.Module, inputs: Inputs) -> list[str]:
    """Name each input tensor by its argument of ``forward`` and its place in it: ``features_0``."""
    if not isinstance(inputs, dict):
        inputs = dict(zip(names_by_place(module.forward, len(inputs)), inputs))
    leaves = pytree.tree_leaves_with_path(inputs)
    return [_plain("_".join(map(_word, path))) for path, leaf in leaves if isinstance(leaf, Tensor)]


def output_names(paths: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Name outputs by key or field, as ``logits`` or ``aux_0``, else ``output``, ``output_0``.

    A name that an input has already gets the prefix ``output_``.
    """
    names = []
    for path in map(_plain, paths):
        short = path.removeprefix("output_")
        names.append(path if short in taken or not short[0].isalpha() else short)
    return names


def flattened(module: nn.Module, inputs: Inputs) -> nn.Module:
    """Make a twin with the same layers whose ``forward`` takes and returns flat tensors.

    It takes the tensors of ``inputs`` and returns a tuple of tensors. All other values in ``inputs`` become constants.
    """
    leaves, structure = pytree.tree_flatten(inputs)
    forward = type(module).forward

    def flat(self: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        given: Any = pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], structure)
        return tuple(named_outputs(run_on(lambda *args, **kwargs: forward(self, *args, **kwargs), given)).values())

    return _with_forward(module, flat)


def returning_plain(module: nn.Module) -> nn.Module:
    """Make a twin with the same layers that returns dicts and tuples in place of records."""
    forward = type(module).forward

    def returns_plain(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return plain(forward(self, *args, **kwargs))

    vars(returns_plain)["__signature__"] = inspect.signature(forward)  # by which an exporter names the inputs
    return _with_forward(module, returns_plain)


def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    # Of a graph module, an exporter runs the graph and not its forward, which needs no more than the layers.
    base = nn.Module if isinstance(module, fx.GraphModule) else type(module)
    twin = copy.copy(module)
    twin.__class__ = type(type(module).__name__, (base,), {"forward": forward})
    return twin


def _word(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def _plain(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_")
