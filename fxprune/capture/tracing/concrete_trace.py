"""Trace with the sizes of an example, for models whose Python code makes decisions by sizes.

Every operation is recorded and also runs on the meta device. The example decides branches, and each decision gets a
guard (:mod:`fxprune.arguments.guards`).
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from fxprune.arguments.guards import guard_dtype, guard_equal
from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.meta import Picks, filled
from fxprune.pytorch.modes import QUESTIONS, is_mode
from fxprune.pytorch.modules import OF_DEVICES, MetaMode, device_of, map_tensors
from fxprune.pytorch.source import line_of
from fxprune.pytorch.torch_private import (
    assert_call,
    assert_tensor,
    attribute_of,
    functions_undisturbed,
    newest_node,
    pytree,
)

from .checks import check
from .integers import as_number, known, length_of, take_numbers_first, with_numbers
from .keys import SizeAsKey
from .own_tensors import note_written
from .proxies import ConcreteProxy, ConcreteShape
from .stand_ins import names_recorded
from .symbolic_trace import CallSite, SymbolicTracer

_FACTORIES = (
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros",
)  # fmt: skip


class ConcreteTracer(SymbolicTracer):
    """A tracer that records a model at the sizes of its example inputs, with guards."""

    proxy_class = ConcreteProxy
    shape_class = ConcreteShape
    done = False
    gradients = False  # what the model is told when it asks whether they are recorded

    def __init__(
        self,
        root: nn.Module,
        example_inputs: Inputs,
        decomposed: frozenset[str] = frozenset(),
        *,
        through: bool = True,
        literal: bool = False,
    ) -> None:
        """Trace ``root`` with values computed from meta copies of ``example_inputs``.

        Types and devices of tensors stay dynamic, or ``literal``: those of the example, with guards.
        """
        super().__init__(example_inputs, decomposed, through=through)
        self.literal = literal
        self._told: set[tuple[fx.Node, str]] = set()
        # Without the numbers of stored tables: sizes that depend on them would be those of this instance.
        self._meta_root = map_tensors(root, lambda _, tensor: torch.empty_like(tensor, device="meta"), only_runs=True)
        self._meta = MetaMode()  # type: ignore[no-untyped-call]
        self._values: dict[fx.Node, Any] = {}
        # Numbers picked otherwise (none, or so many more) -> values of nodes.
        self._picks_before, self._otherwise = Picks.made, {number: dict[fx.Node, Any]() for number in (0, 1)}
        self._asked: dict[fx.Node, tuple[CallSite, fx.Node]] = {}

    def again(self, root: nn.Module) -> ConcreteTracer:
        """Make a tracer like this one, for another copy of the model."""
        return ConcreteTracer(root, self._inputs, self._decomposed, through=self._through, literal=self.literal)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """Trace a module, and also record calls that make tensors from sizes."""
        names = names_recorded(root, literal=self.literal)
        try:
            with torch.set_grad_enabled(self.gradients), _calls_recorded(self), names:
                return super().trace(root, concrete_args)
        finally:
            self.done = True

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """Record an operation and run it on the meta device."""
        if target in ("item", "tolist") and (found := known(self, args[0].node)) is not None:
            return found.tolist()
        args = with_numbers(self, target, args) if kind in ("call_method", "call_function") else args
        if target is assert_call and isinstance(args[0], ConcreteProxy) and args[0].is_tensor():
            target, args, kwargs = assert_tensor, (args[0], str([*args[1:], *kwargs.values()][0])), {}
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        if isinstance(proxy, fx.Proxy):
            self.value(proxy.node)
        return proxy

    # To undo torch.fx's patches of all modules for each operation would take most of the time of a trace.
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace a layer; run it if it belongs to an operation whose value is computed."""
        return forward(*args, **kwargs) if self.modes.paused else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a proxy for a parameter; the parameter itself where a value is computed."""
        return attr_val if self.modes.paused else super().getattr(attr, attr_val, parameter_proxy_cache)

    def value(self, node: fx.Node) -> Any:
        """Compute what a node returns at the example's sizes, with tensors on the meta device."""
        return self._value(node, self._values)

    def _value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node not in values:
            args, kwargs = filled(node, lambda given: self._value(given, values))
            if is_mode(node):
                values[node] = None
            elif node.target in _ASKED:  # outside of the block below, so that the modes of the model are active
                with self.modes.pause():
                    values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            else:
                with functions_undisturbed(), self.modes.pause(), torch.no_grad(), self._meta:
                    values[node] = self._run(node, args, kwargs)
        return values[node]

    def _hangs_on_picks(self, node: fx.Node, kind: Callable[[Any], Any]) -> bool:
        """Tell whether a number is another one where operators pick none by values, or more."""
        if Picks.made == self._picks_before:
            return False
        for number, values in self._otherwise.items():
            with Picks.standing_in(lambda places, number=number: number and places + number):  # type: ignore[misc]
                try:
                    other = kind(self._value(node, values))
                except Exception:  # an operator may take no empty tensor
                    continue
            if other != kind(self.value(node)):
                return True
        return False

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
        if node.target is getattr and isinstance(args[0], torch.Tensor):
            return self._answer(node.args[0], *args)
        return node.target(*args, **kwargs)

    def type_of(self, node: fx.Node) -> type:
        """Return the type of what a node returns, as the model finds it."""
        value = self._attribute(str(node.target)) if node.op == "get_attr" else self.value(node)
        return next((kind for kind in (nn.Parameter, torch.Tensor) if isinstance(value, kind)), type(value))

    def _attribute(self, target: str) -> Any:
        return functools.reduce(attribute_of, target.split("."), self.root)

    def decide(self, proxy: fx.Proxy, kind: Callable[[Any], Any]) -> Any:
        """Return the value of a proxy as a plain number, and add a guard.

        Raises:
            TraceError: the value depends on data.
        """
        if (constant := as_number(self, proxy.node)) is not None:
            return kind(constant)
        value = self.value(proxy.node)
        if isinstance(value, torch.Tensor) or self._hangs_on_picks(proxy.node, kind):
            raise self.refusal(fx.proxy.TraceError("control flow depends on the values of a tensor"))
        decided = kind(value)
        asker = sys._getframe(2)
        check = guard_dtype if isinstance(decided, torch.dtype) else guard_equal
        guard = self.create_proxy("call_function", check, (proxy, decided, line_of(asker)), {})
        self._asked[proxy.node] = (asker, asker.f_lasti), guard.node
        return decided

    def sizes(self, proxy: fx.Proxy) -> Any:
        """Return the numbers, type or device in a proxy, guarded; None if it holds none.

        Raises:
            SizeAsKey: they stay dynamic, unless no graph can be traced otherwise.
        """
        value = self.value(proxy.node)
        members = value if type(value) in (torch.Size, tuple, list) else [value]
        if not all(isinstance(each, _KNOWN) for each in members):
            return None
        if not self.literal or str(value).startswith("torch.meta"):  # the name of a type that is not the model's
            raise SizeAsKey
        if members is value:
            return type(value)(self.sizes(proxy[i]) for i in range(self.length(proxy)))  # type: ignore[index]
        return self.decide(proxy, lambda known: known)

    def handed_over(self, caller: FrameType, given: Any) -> None:
        """Remove the guards of numbers that a call read before it passed them on as proxies.

        The parser of PyTorch's own functions does so. It makes no decision: the call is recorded with the proxies.
        """
        for node in reversed([leaf.node for leaf in pytree.tree_leaves(given) if isinstance(leaf, fx.Proxy)]):
            site, guard = self._asked.pop(node, (None, node))
            newest = guard is newest_node(self.graph)
            if site == (caller, caller.f_lasti) and newest:
                self.graph.erase_node(guard)

    def fixed(self, proxy: fx.Proxy, name: str) -> Any:
        """Return a tensor's attribute that does not depend on sizes, from the example, with a guard."""
        value = self._answer(proxy.node, self.value(proxy.node), name)
        if (proxy.node, name) not in self._told:
            self._told.add((proxy.node, name))
            line = line_of(sys._getframe(2))
            read = super().create_proxy("call_function", getattr, (proxy, name), {})
            guard = guard_dtype if name == "dtype" else guard_equal
            super().create_proxy("call_function", guard, (read, value, f"`{name}` at {line}"), {})
        return value

    def _answer(self, node: Any, tensor: torch.Tensor, name: str, *default: Any) -> Any:
        """Return an attribute of a tensor, which the model sees on the device of its weights."""
        if name == "requires_grad":
            own = node.op == "get_attr" and self._attribute(str(node.target))
            return isinstance(own, torch.Tensor) and own.requires_grad
        return OF_DEVICES[name](device_of(self.root)) if name in OF_DEVICES else getattr(tensor, name, *default)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch by the example."""
        if isinstance(value := self.value(obj.node), (tuple, list)):
            return self.length(obj) > 0
        unknown = isinstance(value, torch.Tensor) and as_number(self, obj.node) is None
        passed = check(obj, sys._getframe(2)) if unknown else None
        return bool(self.decide(obj, bool)) if passed is None else passed

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Iterate over a sequence with its length for the example."""
        return (obj[i] for i in range(self.length(obj)))  # type: ignore[index]

    def length(self, proxy: fx.Proxy) -> int:
        """Return a length, guarded; that of a size by the rank of its tensor."""
        if isinstance(value := self.value(proxy.node), torch.Tensor):
            return int(proxy.shape[0])  # type: ignore[index]  # guards it
        found = length_of(value)
        if isinstance(value, torch.Size) and not _has_computed_bounds(proxy.node):
            node: Any = proxy.node
            while node.target is operator.getitem:
                node = node.args[0]
            read = node.all_input_nodes
            if len(read) == 1 and isinstance(self.value(read[0]), torch.Tensor):
                self.fixed(self.proxy(read[0]), "ndim")
                return found
        self.decide(self.create_proxy("call_function", len, (proxy,), {}), int)  # also of sizes that are joined
        return found


def _has_computed_bounds(size: fx.Node) -> bool:
    """Tell whether a part of a size was taken between bounds that are computed, here or before."""
    bounds = [leaf for arg in size.args[1:] if isinstance(arg, slice) for leaf in (arg.start, arg.stop, arg.step)]
    taken = size.target is operator.getitem and isinstance(size.args[0], fx.Node)
    return any(isinstance(bound, fx.Node) for bound in bounds) or (taken and _has_computed_bounds(size.args[0]))  # type: ignore[arg-type]


# What decides a branch, key or text.
_KNOWN = int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format
_ASKED = frozenset(getattr(torch, name) for name in QUESTIONS)


@contextlib.contextmanager
def _calls_recorded(tracer: ConcreteTracer) -> Iterator[None]:
    """Record calls that make a tensor from sizes, or whose parser takes proxies for tensors.

    PyTorch would run them at once, reject a proxy, or crash.
    """

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                note_written(tracer, kwargs.get("out"))
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return call

    originals = {name: getattr(torch, name) for name in (*_FACTORIES, *take_numbers_first())}
    for name, function in originals.items():
        setattr(torch, name, recorded(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)
