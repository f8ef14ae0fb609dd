"""Refuse a graph that makes absurd numbers, lists or tensors, or computes without end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.arguments.inputs import Inputs, in_order, inputs_for, tensors_of
from fxprune.passes.lowering import MetaInterpreter
from fxprune.pytorch.meta import value_of
from fxprune.pytorch.modes import InModes
from fxprune.pytorch.modules import MetaMode, device_of, named_tensors, to_meta
from fxprune.pytorch.torch_private import TorchDispatchMode, op_name, pytree

from .work import work_of

# Numbers in one tensor: attention of 23,000 tokens, or so many times those of the largest weight or input.
LARGEST_TENSOR, TIMES = 1 << 29, 1 << 10
# Operations: a minute of one core, or so many times those of weights that are all used for each number that goes in.
MOST_WORK = 1 << 40
_MOST_ITEMS, _DEEPEST, _MOST_CALLS = 1 << 17, 64, 1 << 18
# After so many calls of operators, no other batch is tried.
_MANY_CALLS = 1 << 14
_MAKE_PARTS = frozenset({"chunk", "dsplit", "hsplit", "tensor_split", "unsafe_chunk", "vsplit"})
_BITS, _MOST_BITS, _MOST_NUMBERS = 64, 1 << 12, 1 << 12


class AbsurdError(ValueError):
    """A node would compute something larger than anything that a network computes."""


def check_sizes(network: fx.GraphModule, inputs: Inputs) -> bool:
    """Run a graph on the meta device, and look at every size before it is made.

    Args:
        network: the result of :func:`~fxprune.passes.serialization.read.graph_from_json`.
        inputs: its arguments; integers have values. Then other batches are tried, those that it may refuse.

    Returns:
        Whether all of it was looked at: what comes after a node that reads a number of a tensor is not.
        :func:`run_bounded` looks at that.

    Raises:
        AbsurdError: a node makes or computes more than a network of these sizes can need; the message names it.
        Exception: the graph does not run without numbers, as every saved one does.
    """
    root = to_meta(network)

    def run(given: Inputs, batch: int = 1) -> int:
        interpreter, bounds = _MetaInterpreter(root, network.graph, device_of(network)), _bounds(network, inputs, batch)
        with torch.no_grad(), bounds:
            interpreter.run(*in_order(network.graph, inputs_for(network, given)))
        return bounds.calls

    def resized(x: Tensor, batch: int) -> Tensor:
        return x.new_empty((batch, *x.shape[1:]) if x.dim() else (), device="meta")

    try:
        calls = run(inputs)
    except RuntimeError as error:  # one_hot counts its classes
        if "cannot be called on meta tensors" not in str(error):
            raise
        return False
    for batch in (1, 2, 3, 5) if calls < _MANY_CALLS else ():
        try:
            run(pytree.tree_map_only(Tensor, functools.partial(resized, batch=batch), inputs), batch)
        except AbsurdError:
            raise
        except Exception:  # whatever says that it does not take this batch
            continue
    return True


def run_bounded(network: fx.GraphModule, inputs: Inputs) -> Any:
    """Run a graph on its own device, and look at every call before it computes.

    Raises:
        AbsurdError: a node makes or computes more than a network of these sizes can need; the message names it.
    """
    interpreter = _HereInterpreter(network)
    with _Foreseen(_bounds(network, inputs, 1)):
        return interpreter.run(*in_order(network.graph, inputs_for(network, inputs)))


def _bounds(network: fx.GraphModule, inputs: Inputs, batch: int) -> _Bounded:
    sizes = [x.numel() for _, x in named_tensors(network)]
    given = [x.numel() for x in tensors_of(inputs)]
    largest = max(LARGEST_TENSOR, TIMES * max([*sizes, *given], default=0))
    return _Bounded(largest * batch, max(MOST_WORK, TIMES * sum(sizes) * sum(given)) * batch)


class _Bounded(MetaMode):
    """Sees every tensor and operation of each operator, also inside of layers and functions."""

    def __init__(self, largest: int, most_work: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest, self.most_work = largest, most_work
        self.calls, self.work = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, (first, *rest) = op_name(func).removeprefix("aten::"), args or (None,)
        if name in ("bincount", "repeat_interleave") and isinstance(first, Tensor):
            values = _value(first)
            if values is not None and values.numel():  # which say how long the result is
                self._check(name, int(values.max() if name == "bincount" else values.double().sum()))
        if name == "bincount" and (shortest := (kwargs or {}).get("minlength", rest[1] if len(rest) > 1 else 0)):
            self._check(name, shortest)
        if name in ("mvlgamma", "mvlgamma_") or "_polynomial_" in name:  # which sum over as many terms for each number
            terms = _value(rest[0]) if isinstance(rest[0], Tensor) else torch.tensor(rest[0])
            numbers = max(x.numel() for x in (first, rest[0]) if isinstance(x, Tensor))
            if terms is not None and terms.numel():
                self._check(name, int(numbers * terms.double().max()), "takes {:,} steps")
        if name in ("unbind", "split", "unsafe_split"):
            size = 1 if name == "unbind" else rest[0]
            axis = (rest if name == "unbind" else rest[1:]) or [0]
            if isinstance(size, int) and first.shape[axis[0]] > _MOST_ITEMS * max(1, size):
                raise AbsurdError(f"`{name}` makes more than {_MOST_ITEMS:,} tensors")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _check(self, name: str, numbers: int, does: str = "makes a tensor of {:,} numbers") -> None:
        if numbers > self.largest:
            raise AbsurdError(f"`{name}` {does.format(numbers)}")

    def done(self, func: Any, args: Any, kwargs: Any, out: Any, layout: Any) -> Any:
        """Count the call, the numbers that it makes, and what it computes."""
        self.calls += 1
        if self.calls > _MOST_CALLS:
            raise AbsurdError(f"it calls more than {_MOST_CALLS:,} operators")
        for each in pytree.tree_leaves(out):
            if isinstance(each, Tensor):
                self._check(op_name(func).removeprefix("aten::"), each.numel())
        self.work += work_of(func, args, kwargs, out)
        if self.work > self.most_work:
            raise AbsurdError(f"up to here it takes more than {self.most_work:.0e} operations")
        return out


class _Foreseen(TorchDispatchMode):
    """Runs each operator on the meta device first, within bounds."""

    def __init__(self, bounds: _Bounded) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bounds = bounds

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            with self.bounds:
                func(*args, **(kwargs or {}))
        except AbsurdError:
            raise
        except Exception:  # what has as many numbers as its values say has no more than it reads
            pass
        return func(*args, **(kwargs or {}))


def _value(x: Tensor) -> Tensor | None:
    return value_of(x) if x.is_meta else x


class _BoundedInterpreter(fx.Interpreter):
    """Asks before each call of Python's own functions, and looks at each result."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node.

        Raises:
            AbsurdError: its arguments or its result are absurd.
        """
        try:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            given = (*args, *kwargs.values())
            _check_items(given)
            if str(getattr(n.target, "__name__", n.target)).partition(".")[0] in _MAKE_PARTS:
                _check_parts(given)
            if n.op == "call_function" and not any(isinstance(each, Tensor) for each in given):
                _check_call(n.target, given[:2])
                if kwargs:  # in any order
                    _check_call(n.target, given[1::-1])
            value = super().run_node(n)
            _check_items((value,))
        except AbsurdError as error:
            raise AbsurdError(f"the node `{n}` cannot be run: {error}") from error
        return value


class _HereInterpreter(_BoundedInterpreter, InModes):
    """Does so on the network's own device."""


class _MetaInterpreter(_BoundedInterpreter, MetaInterpreter):
    """Does so on the meta device."""


def _check_parts(given: tuple[Any, ...]) -> None:
    """Raise AbsurdError if a tensor is cut into more parts than are in any network."""
    if any(type(each) is int and each > _MOST_ITEMS for each in given):
        raise AbsurdError(f"it makes more than {_MOST_ITEMS:,} tensors")


def _check_items(values: Any) -> None:
    """Raise AbsurdError if a nest has too many values, or one that is too long."""
    for count, each in enumerate(_items(values, 0)):
        long = isinstance(each, int) and each.bit_length() > _BITS
        if count >= _MOST_ITEMS or long or (isinstance(each, (str, range)) and len(each) > _MOST_ITEMS):
            raise AbsurdError("it makes a number, a text or a list that is longer than any in a network")


def _items(value: Any, depth: int) -> Iterator[Any]:
    """Yield what is in a nest, again wherever it is: two lists of a list twice are long soon."""
    if depth > _DEEPEST:
        raise AbsurdError(f"it makes a nest deeper than {_DEEPEST} levels")
    yield value
    inside = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    for each in inside:
        yield from _items(each, depth + 1)


def _check_call(function: Any, given: tuple[Any, ...]) -> None:
    """Raise AbsurdError if a function of Python's own would not end, or fill the memory."""
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    if module not in ("_operator", "builtins", "math"):
        return
    grows: Callable[..., bool] = _GROWS.get(name, _many if module == "math" else _never)
    if grows(*given):
        raise AbsurdError(f"{module.strip('_')}.{name}{str(given)[:60]} is larger than any number or list needs to be")


def _never(*_: Any) -> bool:
    return False


def _many(*given: Any) -> bool:
    return sum(1 for _ in zip(range(_MOST_NUMBERS), _items(given, 0), strict=False)) == _MOST_NUMBERS or any(
        isinstance(each, range) and len(each) > _MOST_NUMBERS for each in given
    )


def _power(base: Any, exponent: Any = 0, *_: Any) -> bool:
    return isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MOST_BITS


def _shift(number: Any, bits: Any = 0) -> bool:
    return isinstance(number, int) and isinstance(bits, int) and number.bit_length() + bits > _MOST_BITS


def _times(one: Any, other: Any = 0) -> bool:
    return any(
        isinstance(several, (str, tuple, list)) and isinstance(often, int) and len(several) * often > _MOST_ITEMS
        for several, often in ((one, other), (other, one))
    )


def _formats(text: Any, *_: Any) -> bool:
    return isinstance(text, str)


def _beyond(*numbers: Any) -> bool:
    return any(isinstance(each, int) and abs(each) > _BITS for each in numbers)


def _digits(number: Any, digits: Any = 0) -> bool:
    return _beyond(digits)


_GROWS: Mapping[str, Callable[..., bool]] = {
    "pow": _power,
    "ipow": _power,
    "lshift": _shift,
    "mul": _times,
    "imul": _times,
    "mod": _formats,
    "imod": _formats,
    "round": _digits,
    **dict.fromkeys(("factorial", "comb", "perm"), _beyond),
}
