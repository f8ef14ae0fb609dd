"""Make the arguments of a trace: a proxy for each tensor, and guarded constants."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxprune.arguments.guards import guard_equal, guard_tensor
from fxprune.arguments.inputs import Inputs, names_by_place
from fxprune.errors import OptionError
from fxprune.pytorch.torch_private import pytree

_CONSTANTS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)


def arguments(
    tracer: fx.Tracer, forward: Callable[..., Any], inputs: Inputs, given: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Make placeholders with the names and in the order of the arguments of ``forward``.

    Arguments that are skipped before a named one become placeholders with their default, so that a call by position
    means the same as for the model.

    Args:
        tracer: records the placeholders.
        forward: the function to trace; its first argument is the module.
        inputs: the example.
        given: receives the example's value for each placeholder, before the placeholder is made.

    Raises:
        OptionError: an argument that ``forward`` does not have, or of a type that cannot be traced.
    """
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not isinstance(inputs, dict):
        _check_count(parameters, len(inputs))
        names = names_by_place(forward, len(inputs) + 1)[1:]
        given |= zip(names, inputs)
        return [_argument(tracer, name, value) for name, value in zip(names, inputs)], {}
    known = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if unknown := [] if any(p.kind == p.VAR_KEYWORD for p in parameters) else [n for n in inputs if n not in known]:
        raise OptionError(
            f"the example names arguments that `forward` does not have: {', '.join(map(str, unknown))}; it has "
            f"{', '.join(known)}. A single argument that is a dict is given as `(argument,)`."
        )
    last = max((place for place, p in enumerate(by_place) if p.name in inputs), default=-1)
    values = {p.name: inputs.get(p.name, p.default) for p in by_place[: last + 1]}
    if missing := [name for name, value in values.items() if value is inspect.Parameter.empty]:
        raise OptionError(f"the example does not give the arguments {', '.join(missing)} of `forward`.")
    given |= {**inputs, **values}
    gap = next((place for place, name in enumerate(values) if name not in inputs), last + 1)
    positional = [
        _argument(tracer, p.name, values[p.name], () if place < gap else (p.default,))
        for place, p in enumerate(by_place[: last + 1])
    ]
    # Python requires a default after an argument with a default.
    default = () if gap > last else (None,)
    named = {name: _argument(tracer, name, value, default) for name, value in inputs.items() if name not in values}
    return positional, named


def _check_count(parameters: list[inspect.Parameter], given: int) -> None:
    """Raise OptionError if a tuple of inputs has more or fewer members than ``forward`` takes."""
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in by_place if p.default is p.empty]
    most = math.inf if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(by_place)
    if not len(needed) <= given <= most:
        takes = ", ".join(p.name for p in by_place) or "none"
        raise OptionError(
            f"the number of arguments is {given}, and `forward` takes {takes}: give a tensor, a tuple with one member "
            "for each argument, or a dict by name."
        )


def _argument(tracer: fx.Tracer, name: str, value: Any, default: tuple[Any, ...] = ()) -> Any:
    """Replace the tensors of a value by proxies, and guard everything else in it."""
    proxy: Any = tracer.create_proxy("placeholder", name, default, {})
    leaves, structure = pytree.tree_flatten_with_path(value)
    new: list[Any] = []
    for path, leaf in leaves:
        where, at = f"argument `{name}{pytree.keystr(path)}`", proxy
        for key in path:
            at = getattr(at, key.name) if isinstance(key, pytree.GetAttrKey) else at[_index(key)]
        if isinstance(leaf, torch.Tensor):
            if default:
                tracer.create_proxy("call_function", guard_tensor, (at, where), {})
            new.append(at)
        elif isinstance(leaf, _CONSTANTS):
            tracer.create_proxy("call_function", guard_equal, (at, leaf, where), {})
            new.append(leaf)
        else:
            raise OptionError(
                f"{where} is of type {type(leaf).__name__}: give tensors, numbers, text and None, in tuples, lists and "
                "dicts."
            )
    return pytree.tree_unflatten(new, structure)


def _index(key: Any) -> Any:
    return key.idx if isinstance(key, pytree.SequenceKey) else key.key
