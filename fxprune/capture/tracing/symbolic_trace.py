"""Trace a model symbolically, at the level of modules, for all sizes.

The trace does not know sizes, so it fails if the model's Python code makes a decision by one; then use
:mod:`fxprune.capture.tracing.concrete_trace`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_tensor
from fxprune.arguments.inputs import Inputs
from fxprune.common.threads import Block, present_block
from fxprune.pytorch.data_writes import data_writes
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.source import stack_of
from fxprune.pytorch.torch_private import hooks_of, pytree

from ..decompositions import FUNCTIONS, decomposition, decomposition_for
from .custom_functions import custom_functions_traced
from .function_wraps import functions_traced
from .keys import of_model
from .mode_recorder import ModeRecorder
from .own_tensors import OwnTensor, check_no_weights, own_tensors_recorded, reads_any
from .placeholders import arguments, check_call, of_instance, with_hooks
from .proxies import InPlaceProxy, InPlaceShape, is_shape_node, unrecorded_write
from .stand_ins import sizes_recorded
from .tensor_types import plain_type
from .type_claims import types_claimed

# A frame, held so that no other gets its identity, and its present instruction.
CallSite = tuple[types.FrameType, int]


class SymbolicTracer(fx.Tracer):
    """A tracer that records a model for all sizes.

    These modules become single nodes: layers with shape attributes, PyTorch's own modules, modules without weights that
    timm registers as such, and modules that act differently in training.
    """

    proxy_class: type[InPlaceProxy] = InPlaceProxy
    shape_class: type[InPlaceProxy] = InPlaceShape
    # Whether types and devices of tensors are those of the example, with guards.
    literal = False
    # Whether nodes know their lines of the model's source.
    notes_lines = True
    block = Block(None)  # in which it traces, if it traces a model

    def __init__(self, inputs: Inputs, decomposed: frozenset[str] = frozenset(), *, through: bool = True) -> None:
        """Trace with placeholders for ``inputs``, and into the modules named in ``decomposed``.

        Functions that are registered with ``torch.fx.wrap`` are traced ``through``, or stay calls.
        """
        import timm.models  # noqa: F401  (on import, its modules register what must stay one node)
        from timm.layers import DropPath, get_notrace_functions, get_notrace_modules
        from torchvision.ops import StochasticDepth

        super().__init__(autowrap_functions=tuple(get_notrace_functions()), param_shapes_constant=False)
        self._registered: tuple[type, ...] = tuple(get_notrace_modules())
        self._regularisers: tuple[type, ...] = (DropPath, StochasticDepth)
        self._inputs, self._decomposed, self._through = inputs, decomposed, through
        self._given: dict[str, Any] = {}
        self.inside: list[str] = []
        self.finished: list[str] = []
        self.proxy_buffer_attributes = True
        self.modes = ModeRecorder(self)
        self.custom_functions: dict[str, None] = {}
        self.cached_functions: list[Any] = []  # those whose caches hold what is dynamic
        self._in_tree: set[int] = set()  # identities of the modules of the model that is traced
        self._refused: Exception | None = None
        self._asked_at: CallSite | None = None  # where the refused number was asked for
        # Identity of a parameter or buffer -> it, and what stands for it in the tables of the model that is traced.
        self.held_elsewhere: dict[int, tuple[torch.Tensor, OwnTensor]] = {}
        # A tensor among the arguments that may be of another kind in a later call -> its name.
        self.tensor_arguments: dict[fx.Node, str] = {}
        # Name of a parameter or buffer whose ``data`` the model sets -> its proxy.
        self.overwritten: dict[str, Any] = {}
        # That the model sets in what it computes, and the error at that line if the graph would return it.
        self.attributes: list[tuple[fx.Proxy, str, Exception]] = []
        self.written: list[torch.Tensor] = []  # plain tensors into which the model writes what is traced
        self.lent: list[torch.Tensor] = []  # those whose memory it has got, as an array

    def again(self, root: nn.Module) -> SymbolicTracer:
        """Make a tracer like this one, for another copy of the model."""
        return SymbolicTracer(self._inputs, self._decomposed, through=self._through)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """Trace a module."""
        self.block = present_block()
        through = functions_traced() if self._through else contextlib.nullcontext()
        custom = custom_functions_traced(self.custom_functions)
        own, types = own_tensors_recorded(root, self), types_claimed(self.proxy_class)
        self._in_tree = {id(module) for _, module in root.named_modules(remove_duplicate=False)}
        with through, sizes_recorded(), self.modes.recording(root), custom, data_writes(_refuse_proxy), own, types:
            try:
                graph = super().trace(root, concrete_args)
            finally:
                for function in self.cached_functions:
                    function.cache_clear()
        if self._refused is not None:
            raise self._refused
        ends = {*graph.find_nodes(op="placeholder"), *graph.output_node().all_input_nodes}
        for proxy, name, error in self.attributes:
            if proxy.node in ends and vars(proxy).get(name) is not None:
                raise error
        return graph

    def attribute_set(self, proxy: InPlaceProxy, name: str) -> None:
        """Note an attribute that the model sets in what it computes; the graph may not return it.

        Raises:
            TraceError: it is one of PyTorch's, or of a stored tensor, which a later call finds.
        """
        if hasattr(torch.Tensor, name) or proxy.node.op == "get_attr" or not proxy.is_tensor():
            raise unrecorded_write(name)
        line, error = sys._getframe(2), unrecorded_write(name, "an input or output")
        error.__traceback__ = types.TracebackType(None, line, line.f_lasti, line.f_lineno)
        self.attributes.append((proxy, name, error))

    def refusal(self, error: Exception) -> Exception:
        """Note an error that ends the trace, also if the model catches it."""
        self._refused = self._refused or error
        return error

    def number_asked(self, asker: types.FrameType) -> Exception:
        """Return the refusal of a dynamic number, which counts unless it is :meth:`handed_over`."""
        if self._refused is None:
            self._asked_at = asker, asker.f_lasti
        return self.refusal(fx.proxy.TraceError("a number is asked for that is dynamic"))

    def handed_over(self, caller: types.FrameType, given: Any) -> None:
        """Forget that PyTorch's parser asked for numbers that it then passes on as proxies."""
        if self._asked_at == (caller, caller.f_lasti):
            self._refused = self._asked_at = None

    def kind_asked(self, proxy: fx.Proxy, asker: types.FrameType) -> None:
        """Guard a tensor among the arguments where the model asks what kind of value it is."""
        if proxy.node in self.tensor_arguments and of_model(asker) is not None:
            where = self.tensor_arguments.pop(proxy.node)
            self.create_proxy("call_function", guard_tensor, (proxy, where), {})

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Raise TraceError."""
        raise self.refusal(fx.proxy.TraceError("control flow depends on what is dynamic"))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Raise TraceError, unless what is dynamic is only unpacked."""
        raise self.refusal(fx.proxy.TraceError("a loop runs over what is dynamic"))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Make a proxy that behaves to the model as its value does."""
        return (self.shape_class if is_shape_node(node) else self.proxy_class)(node, self)

    def create_node(self, *given: Any, **options: Any) -> fx.Node:
        """Make a node, with its lines of the model's source.

        Raises:
            TraceError: a thread asked for a mode, say, before anything told that it is one of the model; or another one
                is in a mode, in which the graph would compute the node.
        """
        if not self.block.joins():
            said = "a thread of the model asks for modes, sets them, or calls what has weights or gradients of its own"
            said += " before it computes"
            raise self.refusal(fx.proxy.TraceError(said))
        with self.modes.lock:
            self.modes.check_thread()
            node = super().create_node(*given, **options)
        if self.notes_lines:
            node.stack_trace = node.stack_trace or stack_of(sys._getframe(1), SymbolicTracer.trace.__code__) or None
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module becomes one node."""
        if module_qualified_name in self._decomposed or self._writes_over(m):
            return False
        if is_shaped(m) or isinstance(m, (*self._regularisers, torch.jit.ScriptModule)):
            return True
        if isinstance(m, self._registered) and next(m.parameters(), None) is None:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def keeps(self, m: nn.Module, path: str) -> bool:
        """Tell whether the code of a module is not traced."""
        called = not isinstance(m, nn.ModuleList | nn.ModuleDict)
        return called and decomposition(m) is None and self.is_leaf_module(m, path)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace into a layer that hides widths; record its path for error messages.

        A module without weights that is not in the tree, as an activation made by the call, is its operations.
        """
        if type(m) is nn.Identity and [*map(type, args)] in ([list], [dict]) and not hooks_of(m):
            return args[0]  # the model may write into it
        inner = decomposition_for(m, args, kwargs)
        if id(m) not in self._in_tree:
            if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                self.block.joins()
            check_no_weights(self, m)
            return forward(*args, **kwargs) if inner is None or self.block.is_stranger() else inner(*args, **kwargs)
        self.inside.append(self.path_of_module(m))
        if self.keeps(m, self.inside[-1]):
            check_call(m, args, kwargs)
        result = super().call_module(m, forward, args, kwargs) if inner is None else inner(*args, **kwargs)
        self.finished.append(self.inside.pop())
        return result

    def create_arg(self, a: Any) -> Any:
        """Make an argument; the graph makes a dict of a derived class again by that class."""
        if isinstance(a, fx.Proxy):  # first, since it may count as a tensor
            return a.node
        if id(a := plain_type(a)) in self.held_elsewhere:  # a tensor of the model, in a list, say
            return self.held_elsewhere[id(a)][1].recorded().node
        a = a.item() if isinstance(a, np.generic) else a  # the code of a graph knows no numpy
        if dataclasses.is_dataclass(a) and not isinstance(a, type):  # as the outputs of `transformers`
            given = {each.name: getattr(a, each.name) for each in dataclasses.fields(a) if each.init}
            return self.create_proxy("call_function", type(a), (), given).node
        a = dict(a) if isinstance(a, defaultdict) else a  # what it makes of a missing key is no output
        if isinstance(a, dict) and type(a) is not dict:
            return self.create_proxy("call_function", type(a), (dict(a),), {}).node
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return the value that the model has set in place of a tensor, if it has."""
        if type(attr_val) is OwnTensor and attr_val.fxprune_name in self.overwritten:
            return attr_val.recorded()
        return attr_val if isinstance(attr_val, fx.Proxy) else super().getattr(attr, attr_val, parameter_proxy_cache)

    def overwrite(self, name: str, value: Any) -> None:
        """Let a computed value stand for a tensor that each call writes before it reads it.

        Raises:
            TraceError: the tensor was read before, so that the next call would read what this one writes.
        """
        self.overwritten[name] = value
        if not isinstance(value, fx.Proxy) or reads_any(self.graph, self.root, [name]):
            raise unrecorded_write("data")

    def _writes_over(self, m: nn.Module) -> bool:
        names = (tensor.fxprune_name for _, tensor in named_tensors(m) if type(tensor) is OwnTensor)
        return bool(self.overwritten) and not self.overwritten.keys().isdisjoint(names)  # empty in nearly all models

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """Record an operation, or its decomposition if it would hide widths."""
        if target in _FILLS:
            args, kwargs = pytree.tree_map(_as_number, (args, kwargs))
        if isinstance(kwargs.get("out"), fx.Proxy) and isinstance(target, types.BuiltinFunctionType):
            made = self.create_proxy(kind, target, args, {name: each for name, each in kwargs.items() if name != "out"})
            return self.create_proxy("call_method", "copy_", (kwargs["out"], made), {})
        if kind == "call_function" and target in FUNCTIONS:
            result = FUNCTIONS[target](*args, **kwargs)
            if result is not None:
                return result
        return super().create_proxy(kind, target, args, kwargs, *more, **options)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Make placeholders for the given inputs; all other arguments keep their defaults."""
        inner = decomposition(self.root) if is_module else None
        root_fn = root_fn if inner is None else inner
        if is_module and "forward" in vars(self.root):
            root_fn = of_instance(self.root)
        globals_of = root_fn.__globals__
        if is_module and hooks_of(self.root):
            root_fn = with_hooks(root_fn)
        positional, named = arguments(self, root_fn, self._inputs, self._given)
        if not named and root_fn.__globals__ is globals_of:
            return root_fn, [self.root, *positional]

        def traced(root: nn.Module) -> Any:
            return root_fn(root, *positional, **named)

        # Functions that stay calls are patched in the globals of the traced function.
        return types.FunctionType(traced.__code__, globals_of, closure=traced.__closure__), [self.root]


# Calls that take a tensor of one number for the number itself, which the meta device does not have.
_FILLS = frozenset({"new_full", "fill_", "full_like", torch.full, torch.full_like})


def _as_number(value: Any) -> Any:
    known = isinstance(value, torch.Tensor) and not isinstance(value, fx.Proxy | nn.Parameter)
    return value.item() if known and value.dim() == 0 and not value.is_meta else value


def _refuse_proxy(value: Any) -> None:
    if isinstance(value, fx.Proxy):
        raise unrecorded_write("data")
