"""Symbolic tracing at module level, plain or with values.

*Plain* tracing knows nothing of sizes, so the graph holds for all of them; it stops where the model's Python decides
something by a size. Tracing *with values* runs every operation on the meta device besides recording it, decides such
branches by the example, and guards each decision (:mod:`fxprune.guards`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.arguments import arguments
from fxprune.guards import holds
from fxprune.inputs import Inputs
from fxprune.leaves import is_shaped
from fxprune.meta import MetaMode, on_meta
from fxprune.opened import FUNCTIONS, opened, opened_call
from fxprune.source import line_of

_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros")


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


class ValueTracer(PlainTracer):
    """Records a model at the sizes of its example inputs, with a guard for each decision that depends on them."""

    def __init__(
        self, root: nn.Module, example_inputs: Inputs, opened: frozenset[str] = frozenset(), *, through: bool = True
    ) -> None:
        """Trace ``root`` with values computed from meta copies of ``example_inputs``."""
        super().__init__(example_inputs, opened, through=through)
        self._meta_root = on_meta(root)
        self._meta = MetaMode()  # type: ignore[no-untyped-call]
        self._values: dict[fx.Node, Any] = {}

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """Trace, with calls that make tensors from sizes recorded too."""
        with torch.no_grad(), _factories_recorded(self):
            return super().trace(root, concrete_args)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that knows its value."""
        return ValueProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """Record an operation and run it on the meta device."""
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        if isinstance(proxy, fx.Proxy):
            self.value(proxy.node)
        return proxy

    def value(self, node: fx.Node) -> Any:
        """What a node returns at the example's sizes, tensors on the meta device."""
        if node not in self._values:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.value)
            with fx._symbolic_trace._maybe_revert_all_patches(), torch._C.DisableTorchFunction(), self._meta:
                self._values[node] = self._run(node, args, kwargs)
        return self._values[node]

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._given[str(node.target)]
        if node.op == "get_attr":
            return pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), self._attribute(str(node.target)))
        if node.op == "call_module":
            return self._meta_root.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        if node.target is getattr and args[1] == "device":
            # What the model would see: the place of its weights, not the meta device.
            return next((p.device for p in self.root.parameters()), torch.device("cpu"))
        return node.target(*args, **kwargs)

    def _attribute(self, target: str) -> Any:
        owner: Any = self.root
        for name in target.split("."):
            owner = owner._modules[name] if name in getattr(owner, "_modules", {}) else _own(owner, name)
        return owner

    def decide(self, proxy: fx.Proxy, kind: Callable[[Any], Any]) -> Any:
        """The value of a proxy as a plain number, guarded.

        Raises:
            TraceError: the value depends on data.
        """
        value = self.value(proxy.node)
        if isinstance(value, torch.Tensor):
            raise fx.proxy.TraceError("control flow depends on the values of a tensor")
        decided = kind(value)
        if isinstance(value, (bool, int, float)):
            self.create_proxy("call_function", holds, (proxy, decided, line_of(sys._getframe(2))), {})
        return decided

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Branches are decided by the example."""
        return bool(self.decide(obj, bool))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Sequences have the length that they have for the example."""
        value = self.value(obj.node)
        length = len(obj) if isinstance(value, torch.Tensor) else len(value)
        return (obj[i] for i in range(length))  # type: ignore[index]


_FIXED = ("ndim", "dtype", "layout", "is_meta", "is_cuda", "is_sparse", "requires_grad")


class ValueProxy(fx.Proxy):
    """A proxy that can be asked for what it is at the example's sizes."""

    tracer: ValueTracer

    def __getattr__(self, k: str) -> Any:
        value = self.tracer.value(self.node)
        # What no size changes is told at once: the kind of a device, but not which one, since a network may move.
        if isinstance(value, torch.device) or (isinstance(value, torch.Tensor) and k in _FIXED):
            return False if k == "is_meta" else getattr(value, k)
        if callable(getattr(value, k)):
            return fx.proxy.Attribute(self, k)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        return int(self.shape[0]) if isinstance(value, torch.Tensor) else len(value)

    def dim(self) -> int:
        """The rank of a tensor never depends on sizes."""
        return int(self.tracer.value(self.node).dim())

    def __int__(self) -> int:
        return int(self.tracer.decide(self, int))

    def __index__(self) -> int:
        return int(self.tracer.decide(self, int))

    def __float__(self) -> float:
        return float(self.tracer.decide(self, float))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __contains__(self, item: Any) -> bool:
        return item in self.tracer.value(self.node)

    def __hash__(self) -> int:
        return id(self)


@contextlib.contextmanager
def _factories_recorded(tracer: ValueTracer) -> Iterator[None]:
    """While tracing, record calls that make a tensor from sizes: PyTorch would run them at once, or refuse a proxy."""

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return call

    originals = {name: getattr(torch, name) for name in _FACTORIES}
    for name, function in originals.items():
        setattr(torch, name, recorded(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)


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


def _own(owner: Any, name: str) -> Any:
    for table in ("_parameters", "_buffers", "__dict__"):
        found = getattr(owner, table, {}).get(name)
        if found is not None:
            return found
    return getattr(owner, name)
