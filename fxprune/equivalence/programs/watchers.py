"""A call that nobody watches computes what a watched one does.

Code can tell whether modes of PyTorch see its operators: it asks for them, or they cause an error, which it handles.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Collection, Iterator

from torch import Tensor, nn

from fxprune.arguments.inputs import Inputs, run_on
from fxprune.common.objects import attribute_or
from fxprune.errors import kind_and_line
from fxprune.pytorch.source import short
from fxprune.pytorch.torch_private import pytree

from ..contents import attributes_of, is_own, kinds_of, names_in, reached
from ..observation import Observation, differs, leaves_of, seed_all

TELLS = "the model computes something else where no modes of PyTorch watch it"
# Parts of the names of functions that tell which modes watch.
_MODES = "dispatch_mode", "dispatch_stack", "function_mode", "function_stack", "ignore_compile_internals"


class Tells:
    """The lines by which the code of a network may tell a watched call."""

    def __init__(self, modules: Collection[nn.Module]) -> None:
        held = [type(value) for module in modules for _, value in attributes_of(module)]
        found = reached((*modules, *kinds_of(modules), *dict.fromkeys(each for each in held if is_own(each))))
        self._codes = [code for each in found if each.__name__ != "__init__" for code in _with_inner(each.__code__)]
        variables = [(name, scope[name]) for places in found.values() for scope, name in places]
        self._aliases = frozenset(name for name, value in variables if _is_question(attribute_or(value, "__name__")))

    @functools.cached_property
    def asks(self) -> str:
        """The first line that names modes that watch; empty if there is none."""
        return next(filter(None, (_line_asking(code, self._aliases) for code in self._codes)), "")

    @functools.cached_property
    def handles(self) -> str:
        """The first line that handles errors."""
        return next(filter(None, map(_line_handling, self._codes)), "")

    def difference(self, network: nn.Module, inputs: Inputs, wanted: Observation) -> str:
        """Compare what a call on the same inputs returned with one of a copy that nobody watches."""
        if not (self.asks or self.handles):
            return ""
        given: Inputs = pytree.tree_map_only(Tensor, Tensor.clone, inputs)
        seed_all()
        try:
            outputs = leaves_of(run_on(network, given))
        except Exception as error:  # a network may raise any exception
            why = f"it does not run: {kind_and_line(error)}"
        else:
            pairs = enumerate(zip(wanted.outputs, outputs, strict=False))
            why = next((f"output {place} {said}" for place, each in pairs if (said := differs(*each))), "")
            why = why if len(wanted.outputs) == len(outputs) else f"it returns {len(outputs)} values"
        return f"{TELLS}, as it may tell at {self.asks or self.handles}: {why}" if why else ""


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _with_inner(each)


def _is_question(name: object) -> bool:
    return isinstance(name, str) and any(part in name for part in _MODES)


@functools.cache
def _line_asking(code: types.CodeType, aliases: frozenset[str]) -> str:
    asked = {name for name in names_in(code) if name in aliases or _is_question(name)}
    steps = dis.get_instructions(code) if asked else ()
    return next((_line_of(code, step) for step in steps if step.argval in asked), "")


@functools.cache
def _line_handling(code: types.CodeType) -> str:
    """Return the line of the first ``except`` or ``finally``, or ``with`` that suppresses."""
    if not code.co_exceptiontable:
        return ""
    suppresses = "suppress" in code.co_names
    for step, after in itertools.pairwise(dis.get_instructions(code)):
        if step.opname == "PUSH_EXC_INFO" and (suppresses or after.opname != "WITH_EXCEPT_START"):
            return _line_of(code, after)
    return ""


def _line_of(code: types.CodeType, step: dis.Instruction) -> str:
    line = step.positions.lineno if step.positions else None
    return f"{short(code.co_filename)}:{line or code.co_firstlineno}"
