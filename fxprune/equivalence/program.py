"""Two networks that run the same operators on the same tensors compute the same.

A program is recorded on the meta device, without numbers: each operator with its constants, and for each tensor the
stored tensor, the input or the operator that it comes from. If two programs are equal, so are all results, written
tensors and random draws, for all numbers, bit by bit. That holds only if nothing else matters, so a program is *open*,
and says nothing, where a network

- asks for a number, or meets a tensor that no recorded operator made;
- sets an attribute, replaces a buffer, the data of a tensor, or writes to a parameter, since a later call may read it;
- reads or sets autocast, seeds a generator of PyTorch, or draws from one of Python or NumPy.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fxprune.common.data_writes import data_writes
from fxprune.common.inputs import Inputs, as_meta, run_on, tensors_of
from fxprune.common.meta_kernels import run_meta
from fxprune.common.modules import PLACES, map_tensors, named_tensors
from fxprune.common.torch_private import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    op_arguments,
    op_name,
    pytree,
    storage_id,
    takes_device,
)

from .observation import autocast_watched, generators_restored, leaves_of

_META = torch.device("meta")
# They make what an operator fills at once, as that of dropout.
_SCRATCH = ("aten::empty_like", "aten::new_empty")
# They may return their tensor as it is; gradients pass through.
_VIEWS = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten.slice.Tensor)


class _OpenError(Exception):
    """The program depends on what no record shows."""


class Programs:
    """A model and its graph, which may certainly run one program.

    A call with real numbers comes before, in eval mode: what the model keeps for later calls, as in a table of its own,
    is real then. So operators that make tensors, where they are recorded in eval mode, are none that the model would
    keep; in training mode only those may run, lest a tensor without numbers gets into such a table.
    """

    def __init__(self, model: nn.Module, module: nn.Module, *, views: bool = True) -> None:
        """Take any module, and a graph that shares its tensors; only copies run.

        Without ``views``, those that have the sizes and strides of their tensor, and all its numbers, do not count.
        """
        self._model, self._module, self._views = model, module, views
        self._made: set[str] = set()
        self._runs: tuple[_Run, _Run] | None = None
        self._of_graph: Any = None
        first = {id(tensor): name for name, tensor in reversed(named_tensors(model))}
        self._names, self._names_in_graph = (
            {name: first[id(tensor)] for name, tensor in named_tensors(each) if id(tensor) in first}
            for each in (model, module)
        )
        # A call may make anew what a module of such a class forgot.
        self._forgets = any(type(each).train is not nn.Module.train for each in model.modules())

    def record(self, copied: nn.Module) -> RealRun:
        """Return a record of a call with numbers of a copy of the model."""
        return RealRun(copied, self._names)

    def is_of_graph(self, run: RealRun) -> bool:
        """Tell, after :meth:`are_equal`, whether a call with numbers ran the graph's program."""
        if self._of_graph is None or run.is_open:
            return False
        (wanted, ours), (found, theirs) = run.program or ([], []), self._of_graph
        return bool(wanted == found and _without_devices(ours) == _without_devices(theirs))

    def are_equal(self, examples: Iterable[Inputs], *, training: bool, after: nn.Module | None = None) -> bool:
        """Tell whether both certainly run one program, in two calls in a row.

        The code of a graph keeps nothing, and its layers are those of the model: its second call is like its first
        where that of the model is. False says nothing: numbers must decide.

        Args:
            examples: inputs, of which only sizes and types matter; the first on which both run is taken.
            training: in training mode instead of eval mode, which comes first.
            after: copy of the model that has made the first call, with numbers.
        """
        for inputs in examples:
            with contextlib.suppress(Exception), torch.no_grad(), generators_restored():  # a network may raise anything
                wanted, found = self._runs or (
                    _Run(after or self._model, self._names),
                    _Run(self._module, self._names_in_graph),
                )
                self._runs = None  # those of a call that fails are of no more use
                for run in (wanted, found):
                    run.views = self._views
                    run.begin(training, frozenset(self._made) if training else None)
                often = 1 if after is not None and not self._forgets else 2
                of_graph = found.call(inputs)
                calls = [wanted.call(inputs) for _ in range(often)]
                calls += [] if isinstance(self._module, fx.GraphModule) else [found.call(inputs)]
                self._made |= wanted.made
                equal = all(call == of_graph for call in calls) and not (wanted.is_open or found.is_open)
                if equal:
                    self._runs, self._of_graph = (wanted, found), of_graph
                return equal
        return False


class _Recorder(TorchDispatchMode):
    """A mode that records the operators of a network, and where their tensors come from."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a network whose tensors are those of the model under other ``names``."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_open, self.views = False, True
        self._network = network
        # Where each tensor comes from: its stored name; or the call, and its operator or input there.
        self._origins: Any = WeakIdKeyDictionary()
        self._stored = [(tensor, names[name]) for name, tensor in reversed(named_tensors(network))]
        self._parameters = set(map(storage_id, network.parameters()))
        self._operators: list[Any] = []
        self._call = 0
        self._begin()

    def _begin(self) -> None:
        self._origins.clear()
        for tensor, name in self._stored:
            self._origins[tensor] = name

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call; yield what returns the program, given the leaves of its outputs."""
        self._call, self._operators = self._call + 1, []
        for place, tensor in enumerate(tensors_of(given)):
            self._origins[tensor] = self._call, "input", place
        before, self._drawn = self._state(), _torch_state()

        def program(outputs: list[Any]) -> Any:
            return [self._described(leaf) for leaf in outputs], self._operators

        with _attributes_watched() as sets, data_writes(sets.append), autocast_watched() as uses, self:
            yield program
        self.is_open |= bool(sets or uses) or before != self._state()

    def _state(self) -> Any:
        kind, keys, *rest = np.random.get_state()
        tables = [(name, id(tensor)) for name, tensor in named_tensors(self._network)]
        return tables, random.getstate(), kind, np.asarray(keys).tobytes(), rest, _torch_state()

    def _described(self, value: Any) -> Any:
        """Describe an argument by where it comes from, or by its value and type."""
        if isinstance(value, Tensor):
            origin = self._origins.get(value)
            if origin is None:
                self._open()
                return None
            return origin if isinstance(origin, str) else (origin[0] - self._call, *origin[1:])
        if isinstance(value, (list, tuple)):
            return [self._described(each) for each in value]
        return type(value), value

    def _open(self) -> None:
        self.is_open = True  # in case that the network handles the error
        raise _OpenError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or (is_mutable(func) and self._writes_parameter(func, args, kwargs)):
            self._open()
        if not self.views and torch.Tag.inplace_view in func.tags:  # of a tensor it would leave the views as they are
            self._open()
        self._check(func, args, kwargs)
        described = self._described(args)
        named = [(name, self._described(each)) for name, each in kwargs.items()]
        made: list[Any] = []  # sizes and types, which may hang on a default type that the network sets
        self._operators.append((func, described, named, made))
        place = len(self._operators)
        out = self._run(func, args, kwargs)
        if not self.views and func in _VIEWS and _same_place(args[0], out):
            self._operators.pop()
            self._origins[out] = self._origins[args[0]]
            return out
        for index, leaf in enumerate(out if isinstance(out, (list, tuple)) else [out]):
            if isinstance(leaf, Tensor):
                made.append((tuple(leaf.shape), leaf.dtype))
                self._origins.setdefault(leaf, (self._call, place, index))
            elif leaf is not None:
                self._open()
        return out

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """Raise _OpenError if this call of an operator depends on what no record shows."""

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _writes_parameter(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Tell whether an operator writes to a parameter, which would change what was trained."""
        written = [
            args[place] if place < len(args) else kwargs.get(argument.name)
            for place, argument in enumerate(op_arguments(func))
            if argument.is_write
        ]
        return any(storage_id(leaf) in self._parameters for leaf in pytree.tree_leaves(written) if leaf is not None)


class RealRun(_Recorder):
    """A record of one call with numbers, which the record does not disturb.

    Attributes:
        program: what was recorded; None if that says nothing.
    """

    program: tuple[list[Any], list[Any]] | None = None

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Take a copy of a model."""
        super().__init__(network, names)
        self._device = _device_of(network)

    @contextlib.contextmanager
    def recording(self, given: Inputs) -> Iterator[Callable[[list[Any]], Any]]:
        """Record one call, as a context of :func:`~fxprune.equivalence.observation.observe`."""
        with super().recording(given) as program:

            def noted(outputs: list[Any]) -> None:
                with contextlib.suppress(_OpenError):
                    self.program = program(outputs)

            yield noted

    def _open(self) -> None:
        self.is_open = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_open:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        elsewhere = kwargs.get("device") not in (None, self._device)
        if elsewhere or torch.Tag.nondeterministic_seeded in func.tags:
            self._open()


class _Run(_Recorder):
    """A copy of a network on the meta device, and a mode that records its operators."""

    def __init__(self, network: nn.Module, names: Mapping[str, str]) -> None:
        self._device = _device_of(network)
        twin = map_tensors(network, lambda _, tensor: torch.empty_like(tensor, device=_META)).eval()
        super().__init__(twin, names)

    def begin(self, training: bool, may_make: Set[str] | None) -> None:
        """Set the mode and what calls may make; no tensor of earlier ones stays known."""
        self.made: set[str] = set()  # by operators without an origin for what they return
        self._may_make = may_make
        self._network.train(training)
        self._begin()

    def call(self, inputs: Inputs) -> Any:
        """Record a call with its results."""
        given = as_meta(inputs)
        with self.recording(given) as program:
            with _Functions(self._device, self._operators):
                outputs = leaves_of(run_on(self._network, given))
            return program(outputs)

    def _check(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        # On meta nothing is drawn, so that only a seed changes the generator, which a trace does not record.
        if torch.Tag.nondeterministic_seeded in func.tags and _torch_state() != self._drawn:
            self._open()
        if takes_device(func) and op_name(func) not in _SCRATCH:
            self._make(func, args, kwargs)

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        return run_meta(func, args, {**kwargs, "device": _META} if takes_device(func) else kwargs)

    def _make(self, func: Any, args: Any, kwargs: Any) -> None:
        """Note what an operator is asked to make, or refuse what may not be made."""
        plain = {name: each for name, each in kwargs.items() if name != "device"}
        asked = str((func, pytree.tree_map_only(Tensor, lambda x: (x.shape, x.dtype), (args, plain))))
        if self._may_make is not None and asked not in self._may_make:
            self._open()
        self.made.add(asked)


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Tell whether a view has the sizes, strides and first number of its tensor."""
    return (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())


def _device_of(network: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in named_tensors(network)), torch.device("cpu"))


def _without_devices(operators: list[Any]) -> list[Any]:
    """Return a program as it is on any device: those of a call with numbers are all the same."""
    calls = [call for call in operators if isinstance(call, tuple)]  # attention is shown by its operators
    return [(func, args, [each for each in named if each[0] != "device"], made) for func, args, named, made in calls]


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


class _Functions(TorchFunctionMode):
    """A mode in which tensors say that they are on the model's device.

    It records attention, which the meta device decomposes, but autocast sees as one function.
    """

    def __init__(self, device: torch.device, calls: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answers = {getattr(Tensor, name).__get__: place(device) for name, place in PLACES.items()}
        self._calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._answers:
            return self._answers[func]
        if func is F.scaled_dot_product_attention:
            self._calls.append(func)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _attributes_watched() -> Iterator[list[Any]]:
    """Yield the names of the attributes that any module sets."""
    found: list[Any] = []
    write: Callable[..., None] = nn.Module.__setattr__

    def written(module: nn.Module, name: str, value: Any) -> None:
        found.append(name)
        write(module, name, value)

    nn.Module.__setattr__ = written  # type: ignore[method-assign,assignment]
    try:
        yield found
    finally:
        nn.Module.__setattr__ = write  # type: ignore[method-assign]
