"""The graft of a class that computes a weight holds tensors that give the narrow weight.

A narrow network holds the result of weight standardisation or weight norm. Such a function only rescales the rows of
its own result, and multiplies them by a gain: so the result goes into the weight, and what its rows lack into the gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.errors import GraftError, kind_and_line
from fxprune.passes.verify import relative_error
from fxprune.pytorch.call_targets import positional
from fxprune.pytorch.graphs import with_ancestors
from fxprune.pytorch.layer_sizes import is_transposed
from fxprune.pytorch.modules import float64_copy, map_tensors, named_tensors
from fxprune.pytorch.precision import to_float64
from fxprune.pytorch.source import source_of
from fxprune.pytorch.torch_private import ConvNd, tensor_tables

from .provenance import Attribute, Number, Traced, numbers_of, value_of

# Roundings of the weight's own type that a function of a few sums adds up.
_ROUNDINGS = 32

# Name of a weight in the narrow network -> the node of the wide graph that computes it.
Computed = Mapping[str, fx.Node]


def computed_weights(model: nn.Module, pairs: Iterable[tuple[fx.Node, fx.Node]]) -> dict[str, fx.Node]:
    """Find the weights of a model that the narrow graph reads where the wide one computes them."""
    found: dict[str, fx.Node] = {}
    names = dict(named_tensors(model)).keys()
    for node, twin in pairs:
        if node.target != twin.target:
            continue
        (args, kwargs), (new_args, new_kwargs) = (positional(n.target, n.args, n.kwargs) for n in (node, twin))
        named = ((kwargs[key], new_kwargs[key]) for key in kwargs.keys() & new_kwargs)
        for one, other in (*zip(args, new_args, strict=False), *named):
            if isinstance(one, fx.Node) and isinstance(other, fx.Node) and other.op == "get_attr" != one.op:
                found[str(other.target)] = one
    # What depends on an input is none: a stored network leaves out what resizes nothing at its image size.
    return {
        name: node
        for name, node in found.items()
        if name in names and all(each.op != "placeholder" for each in with_ancestors([node]))
    }


def compute(weight: fx.Node, model: nn.Module) -> Tensor:
    """Compute a weight in float64, from the tensors and numbers of a model."""
    numbers: dict[Attribute, Number] = {}
    for path, module in model.named_modules():
        numbers |= numbers_of(path, module)
    tensors = dict(named_tensors(model))
    made: dict[fx.Node, Any] = {}

    def value(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return made[leaf]
        return value_of(leaf.term, numbers) if isinstance(leaf, Traced) else leaf

    for node in with_ancestors([weight]):
        args: Any = fx.node.map_aggregate(node.args, value)
        kwargs: Any = fx.node.map_aggregate(node.kwargs, value)
        if node.op == "get_attr":
            made[node] = to_float64(tensors[str(node.target)])
        elif node.op == "call_module":
            layer = float64_copy(model.get_submodule(str(node.target)))
            made[node] = layer(*args, **kwargs)
        elif node.op == "call_method":
            made[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            made[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    result: Tensor = made[weight]
    return result


def with_computed(narrow: nn.Module, grafted: nn.Module, computed: Computed) -> nn.Module:
    """Copy a narrow network with those weights, in float64, that its graft computes."""
    if not computed:
        return narrow
    made = {name: compute(node, grafted) for name, node in computed.items()}
    return map_tensors(narrow, lambda name, tensor: made.get(name, tensor).detach())


@torch.no_grad()
def solve_computed(grafted: nn.Module, model: nn.Module, narrow: nn.Module, computed: Computed) -> None:
    """Give a graft, in place, tensors from which its class computes the narrow weights.

    Raises:
        GraftError: there are none; the message names the weight and the line that computes it.
    """
    tensors = dict(named_tensors(narrow))
    for name, node in computed.items():
        wanted, wide = tensors[name], attrgetter(name)(model).shape
        sources = sorted(_sources(node, grafted) - tensors.keys())
        _state_sizes(grafted, name, wanted)
        failure: Exception | None = None
        try:
            for source in sources:
                _replace(grafted, source, _cut(attrgetter(source)(grafted), wide, wanted.shape))
            solved = _is_solved(grafted, node, wanted, sources)
        except Exception as error:  # a wrong size may raise any exception
            solved, failure = False, error
        if not solved:
            why = f": {kind_and_line(failure)}" if failure is not None else ""
            raise GraftError(
                f"{type(grafted).__name__} computes `{name}` at {source_of(node)}, and from no tensors of its own the "
                f"weight of the narrow network{why}."
            ) from failure


def _is_solved(grafted: nn.Module, node: fx.Node, wanted: Tensor, gains: list[str]) -> bool:
    bound = _ROUNDINGS * torch.finfo(wanted.dtype).eps
    wanted = to_float64(wanted)
    made = compute(node, grafted)
    if relative_error(wanted, made) <= bound:
        return True
    rows = list(range(1, wanted.dim()))
    square = (made * made).sum(rows, keepdim=True)
    ratio = torch.where(square > 0, (wanted * made).sum(rows, keepdim=True) / square, 1.0)
    for name in gains:
        gain = attrgetter(name)(grafted)
        if gain.dim() and len(gain) == len(wanted):
            scaled = to_float64(gain) * ratio.view(-1, *[1] * (gain.dim() - 1))
            _replace(grafted, name, scaled.to(gain.dtype))
            if relative_error(wanted, compute(node, grafted)) <= bound:
                return True
            _replace(grafted, name, gain)
    return False


def _sources(weight: fx.Node, model: nn.Module) -> set[str]:
    """Name the tensors that a weight is computed from."""
    found: set[str] = set()
    for node in with_ancestors([weight]):
        if node.op == "get_attr":
            found.add(str(node.target))
        elif node.op == "call_module":
            inside = named_tensors(model.get_submodule(str(node.target)))
            found |= {f"{node.target}.{name}" for name, _ in inside}
    return found


def _state_sizes(grafted: nn.Module, name: str, weight: Tensor) -> None:
    """Set the sizes of a layer that the narrow graph does not call, from its weight."""
    layer: Any = grafted.get_submodule(name.rpartition(".")[0].removesuffix(".parametrizations.weight"))
    if isinstance(layer, ConvNd) and not is_transposed(layer):
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape


def _cut(tensor: Tensor, wide: tuple[int, ...], narrow: tuple[int, ...]) -> Tensor:
    """Cut the axes of a tensor that are axes of a weight; one axis alone is that of the rows."""
    same = tensor.dim() == len(wide)
    sizes = [n if size == w else size for size, w, n in zip(tensor.shape, wide, narrow, strict=same)]
    return tensor[tuple(slice(size) for size in sizes)].clone()


def _replace(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    parameters, buffers = tensor_tables(owner)
    if last in parameters:
        parameters[last] = nn.Parameter(tensor, requires_grad=attrgetter(name)(model).requires_grad)
    else:
        buffers[last] = tensor
