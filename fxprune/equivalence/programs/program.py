"""Two networks that run the same operators on the same tensors compute the same.

A program is recorded on the meta device, without numbers: each operator or layer of PyTorch
(:mod:`fxprune.equivalence.programs.layers`) with its constants, and for each tensor the stored tensor, the input or the
operator that it comes from. If two programs are equal, so are all results, written tensors and random draws, for all
numbers, bit by bit. That holds only if nothing else matters, so a program is *open*, and says nothing, where a network

- asks for a number, or meets a tensor that no recorded operator made;
- sets an attribute, changes a list, table, object or variable of its own, replaces a buffer, the data of a tensor, or
  writes to a parameter, since a later call may read it (a changed list, table, object or variable leaves the program of
  the call itself closed: only that of later calls is open);
- reads or sets autocast, seeds a generator of PyTorch, or draws from one of Python or NumPy.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.arguments.guards import SpecialisedError
from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.modules import named_tensors

from ..observation import generators_restored
from .meta_run import MetaRun
from .real_run import RealRun

Modes = Callable[[], AbstractContextManager[None]]


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
        self._made: set[Any] = set()
        self._runs: tuple[MetaRun, MetaRun] | None = None
        self._of_graph: Any = None
        self._of_model: Any = None
        # A question that only the model asks, with its line; and whether answers may depend on more than programs show.
        self.unasked, self.needs_numbers = "", False
        self.stated: Collection[str] = ()  # questions that the graph need not ask
        self._attended: dict[Any, tuple[Any, ...]] = {}  # what attention returned on numbers
        first = {id(tensor): name for name, tensor in reversed(named_tensors(model))}
        self._is_graph = isinstance(model, fx.GraphModule)  # which keeps nothing for later calls
        if self._is_graph:  # each graph has its own copy of a constant
            known = dict(named_tensors(model))
            first |= {
                id(x): name for name, x in named_tensors(module) if id(x) not in first and _is(x, known.get(name))
            }
        self._names, self._names_in_graph = (
            {name: first[id(tensor)] for name, tensor in named_tensors(each) if id(tensor) in first}
            for each in (model, module)
        )
        # Programs of both in their usual modes, by the training flag; None where they cannot be recorded.
        self._usual: dict[bool, tuple[Any, list[Any]] | None] = {}
        # A call may make anew what a module of such a class forgot.
        self._forgets = any(type(each).train is not nn.Module.train for each in model.modules())

    def record(self, copied: nn.Module) -> RealRun:
        """Return a record of a call with numbers of a copy of the model."""
        run = RealRun(copied, self._names)
        self._attended = run.attended
        return run

    def is_of_graph(self, run: RealRun) -> bool:
        """Tell, after :meth:`are_equal` in eval mode, whether a call ran the graph's program.

        The call is one with numbers. What it keeps for later ones, as in a table of its own, does not count.
        """
        if self._of_graph is None or run.is_open:
            return False
        (wanted, ours), (found, theirs) = run.program or ([], []), self._of_graph
        return bool(wanted == found and _without_devices(ours) == _without_devices(theirs))

    def is_of_model(self, run: RealRun) -> bool:
        """Tell, after :meth:`are_equal`, whether a call with numbers ran the model's program."""
        if self._of_model is None or run.is_open:
            return False
        (wanted, ours), (found, theirs) = run.program or ([], []), self._of_model
        return bool(wanted == found and _without_devices(ours) == _without_devices(theirs))

    def are_equal(
        self,
        examples: Iterable[Inputs],
        *,
        training: bool,
        after: nn.Module | None = None,
        modes: Modes = contextlib.nullcontext,
    ) -> bool:
        """Tell whether both certainly run one program, in two calls in a row.

        The code of a graph keeps nothing, and its layers are those of the model: its second call is like its first
        where that of the model is. False says nothing: numbers must decide.

        Args:
            examples: inputs, of which only sizes and types matter; the first on which both run is taken.
            training: in training mode instead of eval mode, which comes first.
            after: copy of the model that has made the first call, with numbers.
            modes: other modes, in which the graph and the first call of the model here are recorded.
        """
        if not training:
            self._of_graph = self._of_model = None
        for inputs in examples:
            no_prints = contextlib.redirect_stderr(io.StringIO())  # where the code of a graph prints its errors
            # A network may raise anything.
            with contextlib.suppress(Exception), no_prints, torch.no_grad(), generators_restored():
                wanted, found = self._runs or (
                    MetaRun(after or self._model, self._names),
                    MetaRun(self._module, self._names_in_graph),
                )
                self._runs = None  # those of a call that fails are of no more use
                for run in (wanted, found):
                    run.views, run.attended = self._views, self._attended
                    run.begin(training, frozenset(self._made) if training and not self._is_graph else None)
                often = 1 if after is not None and not self._forgets else 2
                with modes():
                    of_graph = found.call(inputs)
                    if not training:
                        self._of_graph = None if found.is_open else of_graph
                    calls = [wanted.call(inputs)]
                calls += [wanted.call(inputs) for _ in range(often - 1)]
                calls += [] if isinstance(self._module, fx.GraphModule) else [found.call(inputs)]
                self._of_model = None if wanted.is_open else calls[0]
                self._made |= wanted.made
                equal = all(call == of_graph for call in calls)
                self.unasked = self.unasked or _unasked(wanted, found, equal, self.stated)
                self.needs_numbers = self.needs_numbers or wanted.asked_of_constants
                equal = equal and not any(run.is_open or run.keeps for run in (wanted, found))
                if equal:
                    self._runs = wanted, found
                return equal
        return False

    def are_equal_in(self, inputs: Inputs, training: bool, modes: Modes) -> bool | None:
        """Tell whether fresh copies run one program in modes, or the graph refuses; None: unknown."""
        there = self._recorded(inputs, training, modes)
        if there is None or not there[1]:
            return None if there is None else True
        if training not in self._usual:
            self._usual[training] = self._recorded(inputs, training, contextlib.nullcontext)
        (of_graph, calls), usual = there, self._usual[training]
        if all(call == of_graph for call in calls):
            return True
        if usual is not None and all(call == usual[0] for call in usual[1]):
            return False
        return True if usual == there else None

    def _recorded(self, inputs: Inputs, training: bool, modes: Modes) -> tuple[Any, list[Any]] | None:
        """Record the graph, and two calls of the model: none, if the graph refuses; None: unknown."""
        no_prints = contextlib.redirect_stderr(io.StringIO())
        wanted, found = MetaRun(self._model, self._names), MetaRun(self._module, self._names_in_graph)
        for run in (wanted, found):
            run.attended = self._attended
            run.begin(training, frozenset(self._made) if training else None)
        gradients = False
        try:
            with no_prints, torch.no_grad(), generators_restored(), modes():
                gradients = torch.is_grad_enabled()
                of_graph = found.call(inputs)
                calls = [wanted.call(inputs) for _ in range(2)]
        except SpecialisedError:  # a run has no parameter that needs gradients, so that a guard may only fail here
            return None if gradients else (None, [])
        except Exception:  # a network may raise anything
            return None
        return None if wanted.is_open or found.is_open else (of_graph, calls)


def _is(constant: Tensor, other: Tensor | None) -> bool:
    """Tell whether two constants hold the same numbers."""
    if other is None or isinstance(constant, nn.Parameter) or constant.is_meta or other.is_meta:
        return False
    same = constant.dtype == other.dtype and torch.equal(constant, other)
    return same and torch.equal(constant.signbit(), other.signbit())  # which tells -0.0 from 0.0


def _unasked(wanted: MetaRun, found: MetaRun, equal: bool, stated: Collection[str]) -> str:
    """Name a question that only the model asks, with its line; empty if there is none."""
    if equal:
        missing = wanted.asked.keys() - found.asked.keys()
    else:  # where tensors come from cannot be compared
        known = {(what, kind) for (what, _), (_, kind) in found.asked.items()}
        missing = {key for key, (_, kind) in wanted.asked.items() if (key[0], kind) not in known}
    missing = {key for key in missing if key[0] not in stated}
    return min((f"`{key[0]}` at {wanted.asked[key][0]}" for key in missing), default="")


def only_the_model_asks(question: str) -> str:
    """Describe a question that no graph of the model asks."""
    return f"only the model asks for {question}, where it tells tensors from what stands for them in a trace"


def _without_devices(operators: list[Any]) -> list[Any]:
    """Return a program as it is on any device: those of a call with numbers are all the same."""
    return [
        (func, args, [each for each in named if each[0] != "device"], *rest) for func, args, named, *rest in operators
    ]
