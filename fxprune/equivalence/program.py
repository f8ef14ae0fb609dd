"""Two networks that run the same operators on the same tensors compute the same.

A program is recorded on the meta device, without numbers: each operator or layer of PyTorch
(:mod:`fxprune.equivalence.layers`) with its constants, and for each tensor the stored tensor, the input or the operator
that it comes from. If two programs are equal, so are all results, written tensors and random draws, for all numbers,
bit by bit. That holds only if nothing else matters, so a program is *open*, and says nothing, where a network

- asks for a number, or meets a tensor that no recorded operator made;
- sets an attribute, changes a list, table, object or variable of its own, replaces a buffer, the data of a tensor, or
  writes to a parameter, since a later call may read it (a changed list, table, object or variable leaves the program of
  the call itself closed: only that of later calls is open);
- reads or sets autocast, seeds a generator of PyTorch, or draws from one of Python or NumPy.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.modules import named_tensors

from .meta_run import MetaRun
from .observation import generators_restored
from .real_run import RealRun


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
        self._attended: dict[Any, tuple[Any, ...]] = {}  # what attention returned on numbers
        first = {id(tensor): name for name, tensor in reversed(named_tensors(model))}
        self._names, self._names_in_graph = (
            {name: first[id(tensor)] for name, tensor in named_tensors(each) if id(tensor) in first}
            for each in (model, module)
        )
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

    def are_equal(self, examples: Iterable[Inputs], *, training: bool, after: nn.Module | None = None) -> bool:
        """Tell whether both certainly run one program, in two calls in a row.

        The code of a graph keeps nothing, and its layers are those of the model: its second call is like its first
        where that of the model is. False says nothing: numbers must decide.

        Args:
            examples: inputs, of which only sizes and types matter; the first on which both run is taken.
            training: in training mode instead of eval mode, which comes first.
            after: copy of the model that has made the first call, with numbers.
        """
        if not training:
            self._of_graph = None
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
                    run.begin(training, frozenset(self._made) if training else None)
                often = 1 if after is not None and not self._forgets else 2
                of_graph = found.call(inputs)
                if not training:
                    self._of_graph = None if found.is_open else of_graph
                calls = [wanted.call(inputs) for _ in range(often)]
                calls += [] if isinstance(self._module, fx.GraphModule) else [found.call(inputs)]
                self._made |= wanted.made
                equal = all(call == of_graph for call in calls)
                equal = equal and not any(run.is_open or run.keeps for run in (wanted, found))
                if equal:
                    self._runs = wanted, found
                return equal
        return False


def _without_devices(operators: list[Any]) -> list[Any]:
    """Return a program as it is on any device: those of a call with numbers are all the same."""
    return [
        (func, args, [each for each in named if each[0] != "device"], made) for func, args, named, made in operators
    ]
