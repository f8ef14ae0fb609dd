"""Symbolic tracing at module level: the graph that it records holds for all sizes.

It knows nothing of sizes, so it stops where the model's Python decides something by one; see
:mod:`fxprune.value_tracer` for these.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn

from fxprune.arguments import arguments
from fxprune.inputs import Inputs
from fxprune.leaves import is_shaped
from fxprune.opened import FUNCTIONS, opened, opened_call


class PlainTracer(fx.Tracer):
    """Records a model for all sizes.

    Whole stay: layers with shape attributes, PyTorch's own modules, modules that timm keeps whole and that have no
    weights, and what does something else in training.
    """

    record_stack_traces = True

    def __init__(self, inputs: Inputs, opened: frozenset[str] = frozenset(), *, through: bool = True) -> None:
        """Trace with placeholders for ``inputs``, and into the modules named in ``opened``, whatever they are.

        Functions that are registered with ``torch.fx.wrap`` are traced ``through``, or stay calls.
        """
        import timm.models  # noqa: F401  (its modules register what must stay whole when they are imported)
        from timm.layers import DropPath, get_notrace_functions, get_notrace_modules
        from torchvision.ops import StochasticDepth

        super().__init__(autowrap_functions=tuple(get_notrace_functions()), param_shapes_constant=False)
        self._registered: tuple[type, ...] = tuple(get_notrace_modules())
        self._regularisers: tuple[type, ...] = (DropPath, StochasticDepth)
        self._inputs, self._opened, self._through = inputs, opened, through
        self._given: dict[str, Any] = {}
        self.inside: list[str] = []
        self.proxy_buffer_attributes = True

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """Trace a module."""
        with _functions_opened() if self._through else contextlib.nullcontext():
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node."""
        if module_qualified_name in self._opened:
            return False
        if is_shaped(m) or isinstance(m, self._regularisers):
            return True
        if isinstance(m, self._registered) and next(m.parameters(), None) is None:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def keeps(self, m: nn.Module, path: str) -> bool:
        """Whether the code of a module is not traced."""
        return opened(m) is None and self.is_leaf_module(m, path)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace into a layer that hides widths; remember where tracing is, for error messages."""
        path = self.path_of_module(m)
        self.inside.append(path)
        shown = opened_call(m, args, kwargs)
        result = super().call_module(m, forward, args, kwargs) if shown is None else shown(*args, **kwargs)
        self.inside.pop()
        return result

    def create_arg(self, a: Any) -> Any:
        """A dict of a class of its own is made anew by that class where the graph runs."""
        if isinstance(a, dict) and type(a) is not dict and not dataclasses.is_dataclass(a):
            return self.create_proxy("call_function", type(a), (dict(a),), {}).node
        return super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """Record an operation, or what it computes where the operation would hide widths."""
        if kind == "call_function" and target in FUNCTIONS:
            result = FUNCTIONS[target](*args, **kwargs)
            if result is not None:
                return result
        return super().create_proxy(kind, target, args, kwargs, *more, **options)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the inputs that the caller gives; all other arguments keep their defaults."""
        shown = opened(self.root) if is_module else None
        if shown is not None:
            root_fn = shown
        positional, named = arguments(self, root_fn, self._inputs, self._given)
        if not named:
            return root_fn, [self.root, *positional]

        def by_name(root: nn.Module) -> Any:
            return root_fn(root, *positional, **named)

        # Functions that are to be recorded as they are get patched in the globals of what is traced.
        globals_of = types.FunctionType(by_name.__code__, root_fn.__globals__, closure=by_name.__closure__)
        return globals_of, [self.root]


@contextlib.contextmanager
def _functions_opened() -> Iterator[None]:
    """While tracing, functions registered with `torch.fx.wrap` outside PyTorch run like any other code."""
    wrapped = fx._symbolic_trace._wrapped_fns_to_patch
    # The code of a graph module that calls such a function registers it too, in a scope without a name.
    hidden = {key: scope for key, scope in wrapped.items() if scope.get("__name__", "").partition(".")[0] != "torch"}
    for key in hidden:
        del wrapped[key]
    try:
        yield
    finally:
        wrapped.update(hidden)
