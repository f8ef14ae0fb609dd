"""Copy modules with other tensors, and run operations on the meta device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import CaptureError
from fxprune.pytorch.deep_copy import copy_attribute, copy_sharing_graph, with_attributes_of
from fxprune.pytorch.meta import holds_places, note, on_meta, run_constant, run_meta, run_picking, value_of
from fxprune.pytorch.modes import is_mode
from fxprune.pytorch.precision import MixingMode, to_float64
from fxprune.pytorch.torch_private import (
    TABLES,
    NormBase,
    children_of,
    non_persistent_buffers,
    op_name,
    pytree,
    takes_device,
    tensor_tables,
)

# In the error of a kernel that takes no tensor on the meta device, as of nested tensors.
# What PyTorch says where a tensor on meta lacks the numbers that an operator needs.
_WITHOUT_NUMBERS = ("INTERNAL ASSERT", "a meta tensor without")

# Attributes of tensors that depend on their device, as functions of it.
OF_DEVICES: dict[str, Callable[[torch.device], Any]] = {
    "device": lambda device: device,
    "is_cuda": lambda device: device.type == "cuda",
    "is_cpu": lambda device: device.type == "cpu",
    "is_meta": lambda device: False,
}


def map_tensors(
    model: nn.Module, replace: Callable[[str, torch.Tensor], torch.Tensor], *, only_runs: bool = False
) -> nn.Module:
    """Copy a model with every parameter and buffer replaced by ``replace(name, tensor)``.

    A tensor that is shared under several names is replaced once, under its first name. Parameters stay
    parameters with their ``requires_grad``, and keep what else a model has set in them, as ``_no_weight_decay``. A
    copy that ``only_runs`` shares the code of a graph.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        if id(tensor) not in memo:
            new = replace(name, tensor)
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = with_attributes_of(tensor, new)
    return _copy(model, memo, only_runs)


def float64_copy(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Copy a model with tensors in float64; other types than floating point stay as they are."""
    return map_tensors(model, lambda _, tensor: to_float64(tensor, device))


def clone_sharing(model: nn.Module) -> nn.Module:
    """Copy a model that shares every parameter and buffer with the original."""
    return _copy(model, {id(tensor): tensor for _, tensor in named_tensors(model)})


def copy_module(model: nn.Module) -> nn.Module:
    """Copy a model with tensors of its own."""
    return _copy(model, {id(b): b.detach().clone() for b in model.buffers() if not b.is_leaf})


def _copy(model: nn.Module, memo: dict[int, Any], only_runs: bool = False) -> nn.Module:
    """Deep copy a model with the tensors of ``memo``.

    A scripted module copies its own tensors, so they are replaced afterwards. What a model forgets when training
    begins, since it would no longer be true, its copy forgets at once.
    """
    given = dict(memo)  # a copy adds to it
    shares = only_runs and isinstance(model, fx.GraphModule)
    twin: nn.Module = copy_sharing_graph(model, memo) if shares else copy_attribute(model, memo)  # type: ignore[arg-type]
    inside = _inside(twin)
    scripted = [each for each in inside if isinstance(each[1], torch.jit.ScriptModule)]
    new = {name: given[id(x)] for name, x in named_tensors(model) if id(x) in given} if scripted else {}
    for prefix, module in scripted:
        for table in tensor_tables(module):
            for name in list(table.keys()):
                if prefix + name in new:
                    table[name] = new[prefix + name]
    for module in {id(module): module for _, module in inside}.values():
        if _forgets(module):
            _forget(module)
    return twin


def _inside(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """List all modules under all their names, each with its prefix of the names inside it."""
    found: list[tuple[str, nn.Module]] = []
    _enter("", root, found)
    return found


def _enter(prefix: str, module: nn.Module, found: list[tuple[str, nn.Module]]) -> None:
    # No function in a function: one that calls itself would keep the copy of a network until garbage is collected.
    found.append((prefix, module))
    for name, child in children_of(module):
        if child is not None:
            _enter(f"{prefix}{name}.", child, found)


def kept_tensors(module: nn.Module) -> list[torch.Tensor]:
    """List the tensors in the attributes of a module that are neither parameters nor buffers."""
    kept = {name: value for name, value in vars(module).items() if name not in TABLES}
    return [leaf for leaf in pytree.tree_leaves(kept) if isinstance(leaf, torch.Tensor)]


def _forgets(module: nn.Module) -> bool:
    """Tell whether a module may drop tensors by a ``train`` of its own."""
    if type(module).train is nn.Module.train or isinstance(module, (fx.GraphModule, torch.jit.ScriptModule)):
        return False
    return bool(kept_tensors(module))


def _forget(module: nn.Module) -> None:
    """Begin training and end it, where neither can change a parameter, buffer or layer."""
    inside = list(module.modules())
    if any(isinstance(each, torch.jit.ScriptModule) for each in inside):
        return
    before = [(each, dict(vars(each)), {name: dict(vars(each)[name]) for name in TABLES}) for each in inside]
    try:
        for table in (table for each in inside for table in tensor_tables(each)):
            table.update({k: None if t is None else torch.empty_like(t, device="meta") for k, t in table.items()})
        module.train()
        done = list(module.modules()) == inside and not any(t.is_meta for each in inside for t in kept_tensors(each))
    except Exception:  # a model may do anything here: then it stays as it is
        done = False
    for each, attributes, tables in before:
        if not done:
            vars(each).clear()
            vars(each).update(attributes)
        each.training = attributes["training"]
        for name, table in tables.items():
            vars(each)[name].clear()
            vars(each)[name].update(table)


def to_meta(root: nn.Module, seen: Callable[[str, torch.Tensor, bool], None] = lambda *_: None) -> nn.Module:
    """Copy a module to the meta device; call ``seen(name, tensor, is parameter)`` for each."""
    twin = map_tensors(root, lambda _, tensor: on_meta(tensor), only_runs=True)
    for name, parameter in twin.named_parameters():
        seen(name, parameter, True)
    for name, buffer in twin.named_buffers():
        seen(name, buffer, False)
    return twin


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model)}


def named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """List parameters, then buffers, under all their names."""
    tables = [(prefix, tensor_tables(module)) for prefix, module in _inside(model)]
    return [
        (prefix + name, tensor)
        for place in (0, 1)
        for prefix, of_module in tables
        for name, tensor in of_module[place].items()
        if tensor is not None
    ]


def digest_of_tables(model: nn.Module, graph: fx.Graph, picks: Container[str]) -> str:
    """Hash the stored tables of integers: permutations, masks, indices.

    A tensor of one number may be a count of steps, and is none unless it is among the nodes that are ``picks``.
    """
    single = {str(node.target) for node in graph.find_nodes(op="get_attr") if node.name in picks}
    found = hashlib.sha256()
    for name, tensor in named_tensors(model):
        if holds_places(tensor) or (name in single and not tensor.dim()):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def statistics_of(model: nn.Module) -> set[str]:
    """Return all names of the running statistics of normalisations."""
    return {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, NormBase)
        for own, _ in module.named_buffers(recurse=False)
    }


def names_of_caches(model: nn.Module) -> set[str]:
    """Return all names of the buffers that no state dict holds."""
    return {prefix + name for prefix, module in _inside(model) for name in non_persistent_buffers(module)}


def own_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """List a module's own parameters, then buffers, without those of its children."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def precision_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the first floating-point parameter; float32 if there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model; the CPU if it has no weights, or is on the meta device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.device("cpu") if device.type == "meta" else device


def unlike_meta(node: fx.Node, device: torch.device) -> tuple[Any] | None:
    """Return, in a tuple, a node's value if it depends on the device, as on ``device``."""
    if is_mode(node):
        return (None,)
    asks_device = node.op == "call_function" and node.target is getattr and node.args[1] in OF_DEVICES
    return (OF_DEVICES[str(node.args[1])](device),) if asks_device else None


class MetaMode(MixingMode):
    """A mode in which every operation runs on the meta device, also if a call names another one."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not (_is_on_meta(args) and _is_on_meta(kwargs.values())):
            args, kwargs = pytree.tree_map_only(torch.Tensor, _to_meta, (args, kwargs))
        if takes_device(func):
            kwargs = {**kwargs, "device": torch.device("meta")}
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        layout = (first.shape, first.stride()) if first is not None else None
        try:
            out = run_meta(func, args, kwargs)
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and not any(each in str(error) for each in _WITHOUT_NUMBERS):
                raise
            if func is torch.ops.aten.equal.default:
                left, right = map(value_of, args[:2])
                if left is None or right is None:
                    raise NotImplementedError("`equal` compares the values of tensors") from error
                return torch.equal(left, right)
            if torch.Tag.dynamic_output_shape not in func.tags:
                raise CaptureError(
                    f"`{op_name(func)}` has no kernel for tensors without numbers, by which channels are followed: "
                    "couple the part of the network before it."
                ) from error
            out = run_constant(func, args, kwargs)
            out = run_picking(func, args) if out is None else out
            if out is None:
                name = op_name(func).split("::")[1]
                raise NotImplementedError(
                    f"the size of what `{name}` returns depends on the values of a tensor"
                ) from error
        note(func, args, kwargs, out)
        return self.done(func, args, kwargs, out, layout)

    def done(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layout: tuple[Any, Any] | None
    ) -> Any:
        """Observe a finished operation and return ``out``.

        ``layout`` holds the sizes and strides that its first argument had before.
        """
        return out


def _is_on_meta(values: Iterable[Any]) -> bool:
    """Tell whether a flat nest of arguments certainly has all tensors on the meta device."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if not value.is_meta:
                return False
        elif isinstance(value, (list, tuple)):
            if not _is_on_meta(value):
                return False
        elif isinstance(value, dict):
            return False
    return True


def _to_meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.device.type == "meta" else on_meta(tensor)
