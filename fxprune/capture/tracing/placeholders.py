"""Make the arguments of a trace: a proxy for each tensor, and guarded constants."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fxprune.arguments.guards import guard_equal, guard_tensor
from fxprune.arguments.inputs import Inputs, names_by_place, tensors_of
from fxprune.arguments.misfits import not_tensors
from fxprune.errors import OptionError
from fxprune.pytorch.torch_private import call_with_hooks, hooks_of, pytree

if TYPE_CHECKING:
    from .symbolic_trace import SymbolicTracer

_CONSTANTS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)


def arguments(
    tracer: SymbolicTracer, forward: Callable[..., Any], inputs: Inputs, given: dict[str, Any]
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
        _check_tensors(names, inputs)
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
    needed = [p.name for p in parameters if p.default is p.empty and p.name in known and p.name not in inputs]
    if missing := [name for name in needed if name not in values or values[name] is inspect.Parameter.empty]:
        raise OptionError(f"the example does not give the arguments {', '.join(missing)} of `forward`.")
    _check_tensors([*inputs], tuple(inputs.values()))
    given |= {**inputs, **values}
    gap = next((place for place, name in enumerate(values) if name not in inputs), last + 1)
    made = {
        p.name: _argument(tracer, p.name, values[p.name], () if place < gap else (p.default,))
        for place, p in enumerate(by_place[: last + 1])
    }
    # By name, as the model itself is called: what wraps `forward` may look for names.
    positional = [made.pop(p.name) for p in by_place[: last + 1] if p.kind == p.POSITIONAL_ONLY]
    # Python requires a default after an argument with a default.
    default = () if gap > last else (None,)
    named = {name: _argument(tracer, name, value, default) for name, value in inputs.items() if name not in values}
    return positional, {**made, **named}


def check_call(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise the TypeError of arguments that the ``forward`` of a layer does not take."""
    if hooks_of(layer) or isinstance(layer, torch.jit.ScriptModule):  # a hook may change the arguments
        return
    if "forward" in vars(layer):
        inspect.signature(layer.forward).bind(*args, **kwargs)
    else:
        _signature(type(layer).forward).bind(layer, *args, **kwargs)


_signature = functools.lru_cache(1000)(inspect.signature)


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


def _check_tensors(names: list[str], inputs: tuple[Any, ...]) -> None:
    """Raise OptionError if none of the inputs is a tensor, or holds one."""
    if inputs and not tensors_of(inputs):
        raise OptionError(
            f"the example inputs hold no tensor: {not_tensors(names, inputs)}; give tensors, as `torch.as_tensor(...)` "
            "makes them."
        )


def _argument(tracer: SymbolicTracer, name: str, value: Any, default: tuple[Any, ...] = ()) -> Any:
    """Replace the tensors of a value by proxies, and guard everything else in it.

    A tensor is guarded if it may be absent, or else where the model asks whether it is one.
    """
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
            else:
                tracer.tensor_arguments[at.node] = where
            new.append(at)
        elif isinstance(leaf, _CONSTANTS):
            tracer.create_proxy("call_function", guard_equal, (at, leaf, where), {})
            new.append(leaf)
        else:
            raise OptionError(
                f"{where} is of type {type(leaf).__name__}: give tensors, as `torch.as_tensor` makes them, numbers, "
                "text and None, in tuples, lists and dicts."
            )
    return pytree.tree_unflatten(new, structure)


def _index(key: Any) -> Any:
    return key.idx if isinstance(key, pytree.SequenceKey) else key.key


def of_instance(root: nn.Module) -> Callable[..., Any]:
    """Return the forward that was set on an instance, as a function of module and arguments."""
    own = vars(root)["forward"]

    @functools.wraps(own)
    def forward(root: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    given = inspect.signature(own)
    first = inspect.Parameter("root", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = given.replace(parameters=[first, *given.parameters.values()])  # type: ignore[attr-defined]
    return forward


def with_hooks(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a forward in the hooks of its module, which see and change inputs and outputs."""

    @functools.wraps(forward)
    def called(root: nn.Module, *args: Any, **kwargs: Any) -> Any:
        vars(root)["forward"] = functools.partial(forward, root)
        return call_with_hooks(root, *args, **kwargs)

    return called
