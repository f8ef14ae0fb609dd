"""Find the axes that a call puts into one of its results, by what it does at any size."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxprune.coupling import Coupling
from fxprune.node_facts import Codes, Shape
from fxprune.pytorch.call_targets import FLATTENS, JOINS, VIEWS, canonical_call, runs_own_code
from fxprune.pytorch.layer_sizes import is_shaped
from fxprune.pytorch.torch_private import is_torch, pytree
from fxprune.pytorch.view_factors import ViewFactor, ones_beside, view_factors


class Part(NamedTuple):
    """An axis of a node that lies in a flattened one.

    Attributes:
        node: whose axis it is.
        dim: its number.
        kind: whether it has ``channels`` alone, ``positions`` alone, or ``both`` in an order that its view states.
    """

    node: fx.Node
    dim: int
    kind: str


# An axis before a call, or what the call makes.
Source = tuple[fx.Node, int] | Part

# Calls that only move axes, as their strides tell.
MOVES = frozenset({
    "transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "unsqueeze", "squeeze", "expand", "getitem",
    "t", "adjoint", "broadcast_to", "getattr",
})  # fmt: skip
_REGULARISERS = frozenset({"droppath", "stochasticdepth"})  # of timm and torchvision
_SHIFTS = frozenset({"roll", "flip"})  # along axes that they name
# Which tensors give the rows and columns of a product; all give what is in front of these.
_PRODUCTS = {"matmul": (0, 1), "bmm": (0, 1), "scaled_dot_product_attention": (0, 2)}
# Calls that leave each number at its place, beside those that change each by itself.
_IN_PLACE = frozenset({
    "softmax", "log_softmax", "logsoftmax", "cumsum", "cumprod", "dropout", "contiguous", "clone", "detach", "to",
    "float", "double", "half", "type", "type_as", "identity", "normalize", "layer_norm", "layernorm", "relu", "gelu",
    "silu", "tanh", "sigmoid", "relu6", "leakyrelu", "elu", "selu", "celu", "mish", "softplus", "hardswish",
    "hardsigmoid", "hardtanh", "logsigmoid", "truediv", "batch_norm", "batchnorm1d", "batchnorm2d", "batchnorm3d",
    "syncbatchnorm", "group_norm", "groupnorm", "rms_norm", "rmsnorm", "instance_norm", "instancenorm2d", "prelu",
    "droppath", "stochasticdepth", "expand_as",
})  # fmt: skip
# Calls that leave images and maps, whatever they do in space.
_SPATIAL = tuple(f"{name}{n}d" for name in ("max_pool", "avg_pool", "maxpool", "avgpool") for n in (1, 2, 3))
_SPATIAL += tuple(f"adaptive_{name}" for name in _SPATIAL[:6]) + tuple(f"adaptive{name}" for name in _SPATIAL[6:])
_SPATIAL += ("interpolate", "upsample")
# Calls that treat all places of an axis alike, or leave it.
SUMS = frozenset({
    "sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "norm", "logsumexp", "vector_norm",
})  # fmt: skip
_WEIGHTS = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}  # the axis that a weight makes


def name_of(target: Any) -> str:
    """Name what a call runs, in lower case and without a variant: ``add_.Tensor`` is ``add``."""
    return str(getattr(target, "__name__", target)).lower().partition(".")[0].rstrip("_")


@functools.cache
def is_pointwise(name: str) -> bool:
    """Tell whether an operator of this name changes each number by itself."""
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None or name in SUMS else packet.overloads()
    return any(torch.Tag.pointwise in getattr(packet, each).tags for each in overloads)


def is_constant(node: fx.Node) -> bool:
    """Tell whether a value is made of parameters and buffers alone."""
    return node.op == "get_attr" or (bool(node.all_input_nodes) and all(map(is_constant, node.all_input_nodes)))


class AxisSources:
    """What each call of a captured graph puts into an axis of its result."""

    def __init__(self, coupling: Coupling) -> None:
        """Read the shapes of a coupling."""
        self.coupling = coupling

    def of(self, node: fx.Node, dim: int) -> list[Sequence[Source]]:
        """List what lies in an axis, the slowest first, for each tensor that meets in it."""
        shape, given, name = self.shape(node), self.tensors(node), self.name(node)
        last = dim - len(shape.sizes)
        codes = shape.axes[dim]
        if codes is None or is_constant(node):
            return []
        if (tensor := self._broadcast(node)) is not None:
            return self._aligned([tensor], last, shape)
        if not given:
            return []
        if self._is_view(node):
            return self._viewed(node, given[0], dim)
        if runs_own_code(node) and name not in _REGULARISERS:
            return []
        if node.op == "call_module" and is_shaped(self.module(node)) and not self.keeps_places(node):
            return self._layered(node, given[0], dim)
        if name in _WEIGHTS and node.op == "call_function" and len(given) > 1:
            return [[(given[1], 0)]] if dim == _WEIGHTS[name] % len(shape.sizes) else self._layered(node, given[0], dim)
        if name.startswith("conv_transpose") and node.op == "call_function" and dim == 1 and len(given) > 1:
            return [[Part(node, dim, "positions"), (given[1], 1)]]  # the groups
        if node.op == "call_function" and not is_torch(getattr(node.target, "__module__", None)):  # kept, and tried
            return [[(given[0], d)] for d in self._same(given[0], codes)]
        if name in _SPATIAL:
            return [[(given[0], dim)]] if dim < len(shape.sizes) - int(name[-2] if name[-1] == "d" else 1) else []
        if name in SUMS and isinstance(kept := self._left(node, given[0], dim), int):
            return [[(given[0], kept)]]
        if name == "repeat" or name == "repeat_interleave":
            return self._repeated(node, given[0], dim)
        if name in MOVES and node.op != "call_module":
            at = self._moved(node, given[0], dim)
            return [] if at is None else [[(given[0], at)]]
        if canonical_call(node.target) in JOINS:
            (joined,) = [*_integers(node.kwargs.get("dim", node.args[1:2]))] or (0,)
            is_joined = joined % len(shape.sizes) == dim
            return [[(each, dim) for each in given]] if is_joined else self._aligned(given, last, shape)
        if name in _SHIFTS:
            return [[(given[0], dim)]] if self._leaves(node, dim) else []
        if name in _PRODUCTS:
            given = [given[_PRODUCTS[name][last]]] if last >= -2 else given  # a mask, too, names heads
        elif not self.keeps_places(node):
            return []
        return self._aligned(given, last, shape)

    def keeps_places(self, node: fx.Node) -> bool:
        """Tell whether a call leaves each number at its place, whatever it becomes."""
        name = self.name(node)
        return name in _IN_PLACE or (node.op != "call_module" and is_pointwise(name))

    def shape(self, node: fx.Node) -> Shape:
        """Return the wide shape of a tensor."""
        shape = self.coupling.nodes[node.name].value
        assert isinstance(shape, Shape)
        return shape

    def tensors(self, node: fx.Node) -> list[fx.Node]:
        """List the tensors that a call reads, again where it reads one again."""
        given = (each for each in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(each, fx.Node))
        return [each for each in given if isinstance(self.coupling.nodes[each.name].value, Shape)]

    def module(self, node: fx.Node) -> nn.Module:
        """Return the layer that a node calls."""
        return self.coupling.graph_module.get_submodule(str(node.target))

    def name(self, node: fx.Node) -> str:
        """Name what a node calls."""
        return name_of(type(self.module(node)) if node.op == "call_module" else node.target)

    def _aligned(self, given: Sequence[fx.Node], last: int, shape: Shape) -> list[Sequence[Source]]:
        """List the axes that meet in one, counted from the last, but for those that are broadcast."""
        sizes = {each: self.shape(each).sizes for each in given}
        whole = [each for each in sizes if len(sizes[each]) >= -last and sizes[each][last] == shape.sizes[last]]
        on = [each for each in whole if self.shape(each).axes[last] is not None]
        met = [each for each in on if not is_constant(each)] or on  # constants are as long for any input
        return [[(each, len(sizes[each]) + last)] for each in met]

    def _layered(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        """A layer makes channels; linear ones leave all axes but the last, others the first."""
        shape = self.shape(node)
        is_last = "linear" in self.name(node)
        if dim == (len(shape.sizes) - 1 if is_last else 1):
            return [[Part(node, dim, "channels")]]
        same_rank = len(self.shape(given).sizes) == len(shape.sizes)
        return [[(given, dim)]] if same_rank and (is_last or dim == 0) else []

    def has_stated(self, node: fx.Node, dim: int) -> bool:
        """Tell whether a view states a length: as a number, or as that of channels alone."""
        size = self._asked(node, len(self.shape(node).sizes)).get(dim)
        at = size.args[1] if isinstance(size, fx.Node) and len(size.args) == 2 else None
        read = size.args[0] if isinstance(size, fx.Node) and isinstance(at, int) else None
        if isinstance(size, fx.Node) and size.target is operator.getitem and isinstance(read, fx.Node):
            read = read.args[0] if read.target in ("size", getattr) else None
        if not isinstance(read, fx.Node) or not isinstance(at, int) or not isinstance(size, fx.Node):
            return isinstance(size, int) and size != -1
        shape = self.coupling.nodes[read.name].value
        return isinstance(shape, Shape) and shape.axes[at] is not None and at not in shape.varying

    def parted(self, node: fx.Node, dim: int) -> Sequence[tuple[fx.Node, int]]:
        """List the axes that a view parts into one and others."""
        given = self.tensors(node)[0]
        return [(given, d) for d in self._run_of(node, given, dim)[0]]

    def _viewed(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        left, right = self._run_of(node, given, dim)
        if not left:
            return []
        return [[Part(node, dim, "both")]] if len(right) > 1 else [[(given, d) for d in left]]

    def _run_of(self, node: fx.Node, given: fx.Node, dim: int) -> ViewFactor:
        """Return what a view makes an axis of; nothing where a length of 1 may belong there."""
        before, after = self.shape(given).sizes, self.shape(node).sizes
        if self.name(node) in ("flatten", "ravel"):
            joined = self._flattened(node, len(before))
            return (joined if dim == joined[0] else (dim + (dim > joined[0]) * (len(joined) - 1),)), (dim,)
        runs = view_factors(before, after)
        at = next(at for at, run in enumerate(runs) if dim in run[1])
        left, right = runs[at]
        asked, ones = self._asked(node, len(after)), ones_beside(before, after, runs)[at]
        right = tuple(d for d in right if d == dim or asked.get(d) != 1)
        return (left if not ones else (*ones, *left) if len(right) > 1 else ()), right

    def _asked(self, node: fx.Node, rank: int) -> dict[int, Any]:
        """Return the sizes that a view states, by axis."""
        sizes: Any = node.args[1:] if canonical_call(node.target) in VIEWS and node.op != "call_module" else ()
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        return dict(enumerate(sizes)) if len(sizes) == rank else {}

    def _flattened(self, node: fx.Node, rank: int) -> tuple[int, ...]:
        """List the axes that a call to flatten joins."""
        if node.op == "call_module":
            layer: Any = self.module(node)
            start, end = layer.start_dim, layer.end_dim
        else:
            given: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:])) | dict(node.kwargs)
            start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        return tuple(range(start % rank, end % rank + 1))

    def _same(self, node: fx.Node, codes: Codes) -> list[int]:
        """List the axes that have the same channels."""
        return [d for d, each in enumerate(self.shape(node).axes) if each is not None and np.array_equal(each, codes)]

    def _left(self, node: fx.Node, given: fx.Node, dim: int) -> int | None:
        """Return which axis of its input a sum leaves as this one; None if that is not stated."""
        rank = len(self.shape(given).sizes)
        dims = [*_integers(node.kwargs.get("dim", node.args[1:2]))]
        if not dims or node.kwargs.get("dim", 0) is None:
            return None
        summed = {each % rank for each in dims}
        left = [d for d in range(rank) if d not in summed]
        if len(self.shape(node).sizes) == rank:
            return dim if dim in left else None
        return left[dim] if len(left) == len(self.shape(node).sizes) else None

    def _repeated(self, node: fx.Node, given: fx.Node, dim: int) -> list[Sequence[Source]]:
        """What is repeated has positions in front of each axis, or behind each channel."""
        before, after = self.shape(given).sizes, self.shape(node).sizes
        at = dim - len(after) + len(before)
        if at < 0:
            return []
        counts = Part(node, dim, "positions")
        if self.name(node) == "repeat_interleave":
            along = [*_integers(node.kwargs.get("dim", node.args[2:3]))]
            if not along:
                return []
            return [[(given, at), counts]] if along[0] % len(after) == dim else [[(given, at)]]
        times: Any = node.args[1:]
        times = times[0] if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
        once = len(times) == len(after) and times[dim] == 1
        return [[(given, at)]] if once else [[counts, (given, at)]]

    def _moved(self, node: fx.Node, given: fx.Node, dim: int) -> int | None:
        """Return which axis of its input a call makes this one; None: no single one."""
        sizes = self.shape(given).sizes
        strides = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)[: len(sizes)]  # primes, which no step makes equal
        values = {each: self.coupling.nodes[each.name].value for each in node.all_input_nodes}
        if any(isinstance(value, Shape) for each, value in values.items() if each is not given):
            return None  # an index
        values[given] = torch.empty_strided(sizes, strides, device="meta")
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        call: Any = node.target if callable(node.target) else getattr(torch.Tensor, node.target)
        made = call(*args, **kwargs)
        stride, size = made.stride(dim), made.shape[dim]
        return next((at for at, each in enumerate(strides) if each == stride and sizes[at] == size), None)

    def _leaves(self, node: fx.Node, dim: int) -> bool:
        """Tell whether a call that shifts or flips axes leaves one."""
        dims = [*_integers(node.kwargs.get("dims", node.args[2 if self.name(node) == "roll" else 1 :]))]
        return bool(dims) and all(each % len(self.shape(node).sizes) != dim for each in dims)

    def _broadcast(self, node: fx.Node) -> fx.Node | None:
        """Return the tensor that a node takes from several which were broadcast."""
        source, at = node.args[:2] if node.target is operator.getitem else (None, None)
        if isinstance(source, fx.Node) and source.target is torch.broadcast_tensors and isinstance(at, int):
            return self.tensors(source)[at]
        return None

    def _is_view(self, node: fx.Node) -> bool:
        names = ("flatten", "unflatten") if node.op == "call_module" else ("view_as", "reshape_as")
        return canonical_call(node.target) in VIEWS | FLATTENS or self.name(node) in names


def _integers(dims: Any) -> Iterator[int]:
    """Yield the numbers of axes in an argument."""
    yield from (each for each in pytree.tree_leaves(dims) if isinstance(each, int))
