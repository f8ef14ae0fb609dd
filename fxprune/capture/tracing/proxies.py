"""Proxies behave like the tensors and numbers of a model while it is traced."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxprune.pytorch.torch_private import OF_PROXIES, pytree

from .keys import SizeAsKey, cached_function, compares_identity, decides, of_model, stores_items
from .numpy_functions import called
from .own_tensors import note_written
from .stand_ins import TRUNC, recorded_method
from .tensor_types import TypeOfTensors
from .type_claims import claims_type

if TYPE_CHECKING:
    from .concrete_trace import ConcreteTracer

# Augmented assignments and the methods of tensors that they are.
_IN_PLACE = {
    "add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "floordiv": "floor_divide_", "mod": "remainder_",
    "pow": "pow_", "and": "bitwise_and_", "or": "bitwise_or_", "xor": "bitwise_xor_",
}  # fmt: skip
_READS = {dis.opmap[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in dis.opmap}
_UNPACKS, _EXTENDS = dis.opmap["UNPACK_SEQUENCE"], dis.opmap["EXTENDED_ARG"]
_SIZES = ("size", "numel", "nelement", "dim", "shape", "ndim")
# How torch.fx holds the lists and dicts among the arguments of a node.
_CONTAINERS = fx.immutable_collections.immutable_list, fx.immutable_collections.immutable_dict
_KINDS = ("dtype", "layout", "is_sparse", "is_quantized", "requires_grad", "device", "is_cuda", "is_cpu")


def _in_place(name: str, method: str) -> Callable[[InPlaceProxy, Any], Any]:
    def write(proxy: InPlaceProxy, other: Any) -> Any:
        if proxy.is_tensor():
            return proxy.tracer.create_proxy("call_method", method, (proxy, other), {})
        return getattr(operator, name if name not in ("and", "or") else f"{name}_")(proxy, other)

    return write


class InPlaceProxy(TypeOfTensors, fx.Proxy):
    """A proxy whose ``a += b`` writes to ``a``; it raises an error for what no graph records."""

    for _name, _method in _IN_PLACE.items():
        locals()[f"__i{_name}__"] = _in_place(_name, _method)

    def is_tensor(self) -> bool:
        """Tell whether this is a tensor; sizes and what is computed from them are numbers."""
        return not _is_size(self.node)

    def __getattr__(self, k: str) -> Any:
        asker = sys._getframe(1)
        self._is_asked_for(k, asker)
        if asker.f_code.co_code[asker.f_lasti] not in _READS:  # `hasattr`, or `getattr` with a default
            self.tracer.kind_asked(self, asker)  # type: ignore[attr-defined]
        return (
            self.tracer.create_proxy("call_function", getattr, (self, k), {})
            if k == "shape"
            else (InPlaceAttribute(self, k))
        )

    def _is_asked_for(self, name: str, asker: FrameType) -> None:
        """Raise SizeAsKey where code may ask for the identity of a type or device: no proxy has it."""
        frame = of_model(asker) if name in _KINDS else None
        if frame is not None and compares_identity(frame):
            raise self.tracer.refusal(SizeAsKey("may be compared by its identity"))  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:
        """Unpack into as many names as the caller has; ``fx.Proxy`` disassembles its whole function."""
        code, at = sys._getframe(1).f_code.co_code, sys._getframe(1).f_lasti
        if code[at] == _UNPACKS and (at < 2 or code[at - 2] != _EXTENDS):
            return (self[place] for place in range(code[at + 1]))  # type: ignore[index]
        return self.tracer.iter(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data" and self.node.op == "get_attr":
            self.tracer.overwrite(str(self.node.target), value)  # type: ignore[attr-defined]
            return
        if name not in OF_PROXIES:
            self.tracer.attribute_set(self, name)  # type: ignore[attr-defined]
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.tracer.create_proxy("call_method", "clone", (self,), {}) if self.is_tensor() else self

    def __copy__(self) -> InPlaceProxy:
        return self

    def _is_dynamic(self, *_: Any) -> Any:
        raise self.tracer.number_asked(sys._getframe(1))  # type: ignore[attr-defined]

    __len__ = __int__ = __round__ = __index__ = __float__ = _is_dynamic

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = None, kwargs: Any = None) -> Any:
        """Record a call of a PyTorch function."""
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, InPlaceProxy):
                leaf.tracer.handed_over(sys._getframe(1), (args, kwargs))  # type: ignore[attr-defined]
                written = [(kwargs or {}).get("out"), args[:1] if _is_write(orig_method) else ()]
                note_written(leaf.tracer, written)  # type: ignore[arg-type]
                break
        return super().__torch_function__(recorded_method(orig_method), types, args, kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **options: Any) -> Any:
        """Record a function of NumPy."""
        return called(self, ufunc, method, given, options)

    def number(self) -> Any:
        """Return the number for the example, or None: it is a tensor, or not known."""
        return None

    def is_sequence(self) -> bool:
        """Tell whether this is a shape."""
        return is_shape_node(self.node)

    def sizes(self) -> Any:
        """Return what is no tensor as it is for the example, guarded; None for a tensor.

        Raises:
            SizeAsKey: it is dynamic, or unknown.
        """
        raise SizeAsKey

    def __hash__(self) -> int:
        frame = of_model(sys._getframe(1))
        cached = None if frame is None else cached_function(frame)
        if cached is not None:  # a cache changes no result: it finds nothing, and the function is traced
            self.tracer.cached_functions.append(cached)  # type: ignore[attr-defined]
        value = None if frame is None or cached is not None else self._known()
        return id(self) if value is None else hash(value)

    def __repr__(self) -> str:
        value = self._known() if decides(sys._getframe(1)) else None
        return super().__repr__() if value is None else repr(value)

    def __str__(self) -> str:
        value = self._known() if decides(sys._getframe(1)) else None
        return super().__repr__() if value is None else str(value)

    def __format__(self, form: str) -> str:
        value = self._known() if decides(sys._getframe(1)) else None
        return super().__repr__() if value is None else format(value, form)

    def _known(self) -> Any:
        """Return :meth:`sizes`; a failure counts, also if the model goes on after it."""
        frame = of_model(sys._getframe(2))
        is_device = self.node.target is getattr and self.node.args[1] == "device"
        if frame is not None and is_device and stores_items(frame.f_code):
            return None  # the key of a memo, under which it finds what it stored
        try:
            return self.sizes()
        except SizeAsKey as error:
            raise self.tracer.refusal(error) from None  # type: ignore[attr-defined]


def unrecorded_write(name: str, of: str = "a tensor") -> fx.proxy.TraceError:
    """Make the error for a write to an attribute of a tensor, with its remedy as a note."""
    error = fx.proxy.TraceError(f"the model sets the attribute `{name}` of {of}, which no graph records")
    error.add_note("Set it once before the network is given, and leave the line out of `forward`.")
    return error


class InPlaceAttribute(InPlaceProxy, fx.proxy.Attribute):
    """An attribute of a proxy, recorded when it is used as a value."""


def is_shape_node(node: fx.Node) -> bool:
    """Tell whether a node is the shape of a tensor, or a slice of one."""
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 1 and len(node.kwargs) == 0
    if node.target is operator.getitem and isinstance(node.args[1], slice):
        return isinstance(node.args[0], fx.Node) and is_shape_node(node.args[0])
    return node.target is getattr and str(node.args[1]) == "shape"


def _is_write(function: Any) -> bool:
    name: str = getattr(function, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method" or node.target is getattr:
        return (node.target if node.op == "call_method" else node.args[1]) in _SIZES
    if node.op != "call_function" or getattr(node.target, "__module__", "") not in ("_operator", "math", "builtins"):
        return False
    return bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))


class ConcreteProxy(InPlaceProxy):
    """A proxy that knows its value at the example's sizes."""

    tracer: ConcreteTracer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The type of the value, where Python code asks for it."""
        if not claims_type(sys._getframe(1)):
            return type(self)
        return self.tracer.type_of(self.node)

    def _value(self) -> Any:
        return self.tracer.value(self.node)

    def is_tensor(self) -> bool:
        """Tell whether this is a tensor."""
        return isinstance(self._value(), torch.Tensor)

    def number(self) -> Any:
        """Return the number for the example, or None: it is no number."""
        return value if type(value := self._value()) in (int, float) else None

    def is_sequence(self) -> bool:
        """Tell whether this is a shape, or another sequence."""
        return isinstance(self._value(), (tuple, list))

    def __getattr__(self, k: str) -> Any:
        value = self.tracer.value(self.node)
        if isinstance(value, torch.Tensor):
            if k == "ndim":
                return self.tracer.fixed(self, k)
            if k == "is_meta":
                return False
            if k in _KINDS and self.tracer.literal:
                return self.tracer.fixed(self, k)
            self._is_asked_for(k, sys._getframe(1))
            if getattr(value, k) is None:  # as `grad_fn`, for which no proxy can stand: code asks whether it is None
                return self.tracer.fixed(self, k)
        elif self.tracer.literal and isinstance(value, torch.device):
            return getattr(value, k)
        if callable(getattr(value, k)):
            return ConcreteAttribute(self, k)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def __len__(self) -> int:
        return self.tracer.length(self)

    def dim(self) -> int:
        """Return the rank of a tensor, and add a guard."""
        return int(self.tracer.fixed(self, "ndim"))

    def __int__(self) -> int:
        cut = isinstance(self.tracer.value(self.node), float)
        integer = self.tracer.create_proxy("call_function", TRUNC, (self,), {}) if cut else self
        return int(self.tracer.decide(integer, int))

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.tracer.decide(self, lambda value: value), digits)

    def __index__(self) -> int:
        return int(self.tracer.decide(self, int))

    def __float__(self) -> float:
        return float(self.tracer.decide(self, float))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(self._value(), _CONTAINERS):
            error = fx.proxy.TraceError("the model writes into a list or dict that a layer returns as it was given")
            error.add_note("Write into a copy: `x = list(x)` or `x = dict(x)` before the line.")
            raise self.tracer.refusal(error)
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __contains__(self, item: Any) -> bool:
        return bool(self.tracer.create_proxy("call_function", operator.contains, (self, item), {}))

    def sizes(self) -> Any:
        """Return what this is for the example, guarded."""
        return self.tracer.sizes(self)

    def __eq__(self, other: Any) -> Any:
        # What a trace leaves behind in a table is found by no one else.
        return self is other if self.tracer.done else super().__eq__(other)

    __hash__ = InPlaceProxy.__hash__


@Sequence.register  # so that `match` takes a shape for one
class InPlaceShape(InPlaceProxy):
    """A proxy of a shape."""


@Sequence.register
class ConcreteShape(ConcreteProxy):
    """A proxy of a shape that knows its sizes at the example."""


class ConcreteAttribute(ConcreteProxy, InPlaceAttribute):
    """A method of a value, recorded when it is called."""

    def _value(self) -> Any:
        return getattr(self.tracer.value(self.root.node), self.attr)
