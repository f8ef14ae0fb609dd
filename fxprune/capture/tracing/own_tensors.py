"""The tensors of a model are nodes of its graph, however its code gets them.

``self.weight`` is a proxy while a model is traced. ``self.parameters()``, ``self.state_dict()`` and tables give the
tensor itself: what is computed from it would be a constant, and a branch on its type would have no guard.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxprune.pytorch.data_writes import number_reads
from fxprune.pytorch.modules import named_tensors
from fxprune.pytorch.source import is_tracing_code
from fxprune.pytorch.torch_private import (
    TorchDispatchMode,
    functions_undisturbed,
    makes_storage,
    mark_parameter,
    pytree,
    storage_id,
    tensor_tables,
)

from .mode_recorder import ObjectAskedError

if TYPE_CHECKING:
    from .symbolic_trace import SymbolicTracer

# Numbers of a stored tensor, which the narrow network takes from the wide one.
_SIZES = frozenset({"shape", "size", "numel", "nelement", "dim", "ndim", "ndimension", "stride", "__len__"})


class OwnTensor(torch.Tensor):
    """A parameter or buffer while its model is traced: what Python code does to it is recorded."""

    fxprune_tracer: SymbolicTracer
    fxprune_name: str

    def recorded(self) -> Any:
        """Record that the tensor is read; return its proxy, or that of what was written over it."""
        if self.fxprune_name in self.fxprune_tracer.overwritten:
            return self.fxprune_tracer.overwritten[self.fxprune_name]
        return self.fxprune_tracer.create_proxy("get_attr", self.fxprune_name, (), {})

    def __deepcopy__(self, memo: Any) -> Any:
        return self.recorded().clone()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record a call with the nodes of such tensors; sizes are read at once."""
        leaves, structure = pytree.tree_flatten((args, kwargs or {}))
        tracer = next(leaf.fxprune_tracer for leaf in leaves if type(leaf) is cls)
        is_attribute = func.__name__ == "__get__"
        # `data` is a property while its writes are watched.
        name = getattr(func.__self__, "__name__", "data") if is_attribute else func.__name__
        if tracer.modes.paused or name in _SIZES or is_tracing_code(sys._getframe(1).f_code.co_filename):
            with functions_undisturbed():
                return func(*args, **(kwargs or {}))
        nodes = [leaf.recorded() if type(leaf) is cls else leaf for leaf in leaves]
        proxies, named = pytree.tree_unflatten(nodes, structure)
        if is_attribute:
            return getattr(proxies[0], name)
        return tracer.proxy_class.__torch_function__(func, types, proxies, named)


@contextlib.contextmanager
def own_tensors_recorded(root: nn.Module, tracer: SymbolicTracer) -> Iterator[None]:
    """Replace the parameters and buffers of a model by :class:`OwnTensor` inside the block.

    Raises:
        TraceError: in the block, where the model computes with one of them that it holds elsewhere, as in a closure.
    """
    memo: dict[int, OwnTensor] = {}
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    for path, module in root.named_modules():
        for table in () if isinstance(module, torch.jit.ScriptModule) else tensor_tables(module):
            for name, tensor in table.items():
                if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout != torch.strided:
                    continue
                if id(tensor) not in memo:
                    memo[id(tensor)] = _own(tensor, f"{path}.{name}" if path else name, tracer)
                table[name] = memo[id(tensor)]
                replaced.append((table, name, tensor))
                tracer.held_elsewhere.setdefault(id(tensor), (tensor, memo[id(tensor)]))
    stored = {storage_id(tensor) for _, _, tensor in replaced if tensor.numel()}
    with _Numbers(tracer, stored), number_reads(functools.partial(_is_read, tracer)):
        try:
            yield
        finally:  # what reads the module afterwards must record nothing
            for table, name, tensor in replaced:
                if table.get(name) is memo[id(tensor)]:
                    table[name] = tensor
            tracer.held_elsewhere.clear()  # else they would stay until garbage is collected, and count as owners


def reads_any(graph: fx.Graph, root: nn.Module, names: Iterable[str]) -> bool:
    """Tell whether a graph reads one of these tensors of its module, by name or in a layer."""
    tensors = dict(named_tensors(root))
    wanted = {id(tensors[name]) for name in names}
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr" and node.users}
    layers = [root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    held = [tensors.get(name) for name in read] + [tensor for layer in layers for _, tensor in named_tensors(layer)]
    return not wanted.isdisjoint(map(id, held))


def check_no_weights(tracer: SymbolicTracer, module: nn.Module) -> None:
    """Check that a layer outside of the model has no weights, unless a stranger calls it.

    Raises:
        TraceError: it has.
    """
    if not any(each is not None for each in tensor_tables(module)[0].values()):
        return
    if tracer.block.is_stranger():
        tracer.block.skips()
    else:
        error = fx.proxy.TraceError(f"a {type(module).__name__} with weights is called that is no part of the network")
        error.add_note(
            "Make it in `__init__` and keep it as an attribute of a module: weights that `forward` makes are never "
            "trained, and a list or closure hides them."
        )
        raise tracer.refusal(error)


class _Numbers(TorchDispatchMode):
    """A mode that refuses to compute with numbers of stored tensors, except while ``paused``."""

    def __init__(self, tracer: SymbolicTracer, stored: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer, self._stored = tracer, stored

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs)) if not self._tracer.modes.paused else []
        if any(self._is_in(self._stored, leaf) for leaf in leaves):
            raise fx.proxy.TraceError("the model computes with a tensor of its own that it does not read by its name")
        if self._tracer.written and makes_storage(func):
            for leaf in leaves:
                check_unwritten(self._tracer, leaf)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_in(storages: set[int], value: Any) -> bool:
        strided = isinstance(value, torch.Tensor) and value.layout == torch.strided
        return strided and storage_id(value) in storages


def check_unwritten(tracer: SymbolicTracer, value: Any) -> None:
    """Raise TraceError if a plain tensor is read into which only the graph has written."""
    if _Numbers._is_in({storage_id(each) for each in tracer.written}, value):
        raise tracer.refusal(read_after_write())


def note_written(tracer: SymbolicTracer, values: Any) -> None:
    """Note plain tensors into which the graph writes.

    Raises:
        ObjectAskedError: an array has the same memory, and would show no write.
    """
    for each in pytree.tree_leaves(values):
        if type(each) is torch.Tensor:
            tracer.written.append(each)
            with tracer.modes.pause():
                is_own = each.layout != torch.strided or each.is_meta or each.untyped_storage().resizable()
            if not is_own or _Numbers._is_in(set(map(storage_id, tracer.lent)), each):
                error = ObjectAskedError("the model writes what it computes into memory that is an array's, too")
                error.add_note("Make a tensor of its own: `torch.tensor(array)`.")
                raise tracer.refusal(error)


def _is_read(tracer: SymbolicTracer, tensor: torch.Tensor) -> None:
    """Check a tensor whose numbers are read from memory, which no operator shows, now or later."""
    if not tracer.modes.paused and type(tensor) is torch.Tensor:
        check_unwritten(tracer, tensor)
        tracer.lent.append(tensor)


def read_after_write() -> fx.proxy.TraceError:
    """Return the error of numbers that Python reads too late."""
    error = fx.proxy.TraceError("the model reads numbers of a tensor after it wrote computed ones into it")
    error.add_note("Make the tensor of all its numbers at once.")
    return error


def _own(tensor: torch.Tensor, name: str, tracer: SymbolicTracer) -> OwnTensor:
    own = tensor.detach().as_subclass(OwnTensor)
    with functions_undisturbed():
        own.requires_grad_(tensor.requires_grad)
    mark_parameter(own, isinstance(tensor, nn.Parameter))
    own.fxprune_tracer, own.fxprune_name = tracer, name
    return own
