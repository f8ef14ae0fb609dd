"""Widths of layers and numbers in calls depend on lengths of axes, which inputs may change.

A layer whose attributes state its width has the same width in all its calls.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from fxprune.pytorch.call_targets import PADS, PUTS, VIEWS, call_kind, positional, put_names, reads_sizes, takes_all
from fxprune.pytorch.meta import MASKS, value_of

from ..channels import Channels, Ids
from ..labels import Label, Labels, tensors_in
from ..marks import Marks
from .factors import factors_of, is_fixed


class LayerInputs:
    """The inputs of each layer with shape attributes, call by call.

    Attributes:
        found: name of a layer -> (sizes, label) of its input, for each call.
        inside: names of the layers that are running, the innermost last; the rewrite adapts their attributes.
        paused: calls are trials, and are not recorded.
    """

    def __init__(self, channels: Channels, labels: Labels, marks: Marks) -> None:
        self.found: dict[str, list[tuple[torch.Size, Label]]] = {}
        self.inside: list[str] = []
        self.paused = False
        self._given: list[list[Label]] = []  # of all tensors, layer by layer in `inside`
        self._channels, self._labels, self._marks = channels, labels, marks

    def enter(self, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call of a layer; unify the channels of its input with those of its last call."""
        self.inside.append(layer)
        self._given.append([self._labels.of(x) for x in tensors_in((args, kwargs))])
        if self.paused:
            return
        given = tensors_in((args, kwargs))[0]
        label = self._labels.of(given)
        for sizes, earlier in self.found.get(layer, [])[-1:]:
            # One layer has one width, even if it has no weight that ties its inputs.
            front = range(1, min(len(sizes), given.dim()))
            for dim in front if len(sizes) == given.dim() else (*front, *(-dim for dim in front)):
                before = self._labels.met(label.axes[dim], earlier, dim)
                now = self._labels.met(earlier.axes[dim], label, dim)
                if sizes[dim] != given.shape[dim]:
                    continue
                if before is not None and now is not None:
                    self._channels.unite(before, now)
                else:
                    self._marks.freeze(f"`{layer}` also reads positions without channels", before, now)
        self.found.setdefault(layer, []).append((given.shape, label))

    def leave(self) -> None:
        """Record the end of the innermost layer's call."""
        self.inside.pop()
        self._given.pop()

    def reads(self, ids: Ids | None) -> bool:
        """Tell whether ids are on an axis of what the innermost layer was given."""
        axes = [axis for x in self._given[-1] for axis in (*x.axes, *x.uniform) if axis is not None]
        return ids is not None and any(bool(np.isin(ids, axis).any()) for axis in axes)


class InputLengths:
    """The nodes that depend on lengths of axes without channels, or on given numbers.

    Attributes:
        by_values: calls that pick a place by a number which is computed in a tensor.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._hang: dict[fx.Node, bool | tuple[bool, ...]] = {}
        self._masks: set[Any] = set()
        self._numbers: set[fx.Node] = set()
        self.by_values: set[fx.Node] = set()

    def note(self, node: fx.Node, value: Any, env: Mapping[fx.Node, Any], labels: Labels) -> None:
        """Note a node that ran: what it returned, and the values of those before it."""
        first = node.args[0] if node.args else None
        given = env.get(first) if isinstance(first, fx.Node) else None
        if isinstance(value, torch.Tensor) and value.dtype in MASKS and value.dim() != 1:
            self._masks.add(node)
        if not tensors_in(value):
            self._numbers.add(node)
        if node.op == "placeholder":
            self._hang[node] = not isinstance(value, torch.Tensor)
        elif isinstance(given, torch.Tensor) and not tensors_in(value):
            assert isinstance(first, fx.Node)
            if first.op == "get_attr" or (node.target is getattr and node.args[1] != "shape"):
                self._hang[node] = False
            elif value_of(given) is not None:
                self._hang[node] = self._any(first)
            else:
                lengths = factors_of(self._channels, labels.of(given), given.shape)
                self._hang[node] = _read(node, tuple(not is_fixed(factors) for factors in lengths))
        else:
            found = self._hang.get(first) if isinstance(first, fx.Node) else None
            at = node.args[1] if node.target is operator.getitem else None
            indexed = isinstance(found, tuple) and isinstance(at, (int, slice)) and len(node.all_input_nodes) == 1
            self._hang[node] = found[at] if indexed else any(map(self._any, node.all_input_nodes))  # type: ignore[index]

    def unknown(self, node: fx.Node | None, named: Sequence[Any] = ()) -> str:
        """Return why the places that a call names are unknown; ``named``: beside an index."""
        if node is None:
            return ""
        if node in self.by_values:
            return "whose place is computed in a tensor"
        args, options = positional(call_kind(node) or node.target, node.args, node.kwargs)
        items: tuple[Any, ...] = (*args[1:], *options.values())
        if node.target in (operator.getitem, operator.setitem):
            items = items[0] if isinstance(items[0], tuple) else items[:1]
            if any(map(self._is_mask, items)) and self._are_behind(items):
                return "behind a mask that has not one axis"
        if node.target is F.pad:
            items = ()
        if node.target in (F.fold, torch.ops.aten.col2im.default):  # whatever size it makes
            items = (*args[2:3], options.get("kernel_size"))
        if (kind := call_kind(node)) in PUTS:
            given = {**dict(zip(put_names(kind), args)), **options}
            items = tuple(
                value for name, value in given.items() if name in ("indices", "index", "start", "end", "step")
            )
        return "that depends on an input" if any(map(self._any, _nodes((*items, *named)))) else ""

    def has_open_number(self, node: fx.Node | None) -> bool:
        """Tell whether a number that a call gets depends on an input."""
        return node is not None and any(self._any(each) for each in node.all_input_nodes if each in self._numbers)

    def asked(self, node: fx.Node | None, rank: int) -> list[bool | None]:
        """Tell of each size that a view states whether it depends on an input; None: it is open.

        Calls that are no views state none.
        """
        kind = call_kind(node) if node is not None else None
        if node is None or kind not in VIEWS:
            return [False] * rank
        args, named = positional(node.target, node.args, node.kwargs)
        given: list[Any] = [*args[1:], *(value for name, value in named.items() if name != "dim")]
        if kind in ("unflatten", torch.unflatten):
            sizes, dim = given[-1], args[1] if len(args) > 1 else named["dim"]
            if not isinstance(sizes, (tuple, list)) or not isinstance(dim, int):
                return [True] * rank
            dim %= rank - len(sizes) + 1
            return [*[False] * dim, *map(self._asks, sizes), *[False] * (rank - dim - len(sizes))]
        stated = given[0] if len(given) == 1 and not isinstance(given[0], int) else given
        if isinstance(stated, fx.Node):
            found = self._hang.get(stated, False)
            return list(found) if isinstance(found, tuple) else [found] * rank
        each = [*map(self._asks, stated)]
        return each if len(each) == rank else [True] * rank

    def stated(self, node: fx.Node | None, rank: int) -> list[bool]:
        """Tell which sizes a view states by numbers that depend on no input."""
        kind = call_kind(node) if node is not None else None
        if node is None or kind not in VIEWS:
            return [False] * rank
        asked = [hangs is False for hangs in self.asked(node, rank)]
        if kind not in ("unflatten", torch.unflatten):
            return asked
        args, named = positional(node.target, node.args, node.kwargs)
        sizes, dim = named.get("sizes", args[-1]), args[1] if len(args) > 1 else named["dim"]
        if not isinstance(sizes, (tuple, list)) or not isinstance(dim, int):
            return [False] * rank
        first = dim % (rank - len(sizes) + 1)
        named_here = range(first, first + len(sizes))
        return [found and at in named_here for at, found in enumerate(asked)]

    def cut(self, node: fx.Node, rank: int) -> list[int]:
        """List the axes that a call cuts or pads by numbers that depend on an input.

        PyTorch returns a tensor as it is where a slice takes all of it, or nothing is added; no rule sees that.
        """
        kind = call_kind(node)
        if kind in PADS:
            args, named = positional(node.target, node.args, node.kwargs)
            amounts = args[1] if len(args) > 1 else named["pad"]
            hang = map(self._any, amounts) if isinstance(amounts, (tuple, list)) else ()
            return [rank - 1 - at // 2 for at, hangs in enumerate(hang) if hangs]
        if kind in ("narrow", torch.narrow):
            args, named = positional(node.target, node.args, node.kwargs)
            dim, start, length = (*args[1:], *(named[name] for name in ("dim", "start", "length") if name in named))
            cuts = [(dim % rank, [start, length])]
        elif node.target in (operator.getitem, operator.setitem):
            cuts = [(dim, bounds_at(node, dim, rank)) for dim in range(rank)]
        else:
            return []
        return [
            dim
            for dim, bounds in cuts
            if any(map(self._any, bounds)) and not takes_all(slice(*bounds[:3]), node.args[0], dim)
        ]

    def _asks(self, size: Any) -> bool | None:
        return None if type(size) is int and size == -1 else self._any(size)

    def _is_mask(self, item: Any) -> bool:
        return type(item) is bool or (isinstance(item, fx.Node) and item in self._masks)

    def _are_behind(self, items: tuple[Any, ...]) -> bool:
        """Tell whether a slice is behind a mask, where its axis depends on how many that has."""
        behind = [item for at, item in enumerate(items) if any(map(self._is_mask, items[:at]))]
        cuts = [item for item in behind if isinstance(item, slice) and item != slice(None)]
        return bool(cuts) or Ellipsis in [item for item in items if not isinstance(item, fx.Node)]

    def _any(self, item: Any) -> bool:
        """Tell whether any number of an item depends on an input; only nodes can."""
        found = self._hang.get(item, False)
        return any(found) if isinstance(found, tuple) else found


def freeze_cuts(
    lengths: InputLengths, node: fx.Node, value: Any, env: Mapping[fx.Node, Any], labels: Labels, marks: Marks
) -> None:
    """Freeze the axes of channels that a call may cut at another place for other inputs.

    No length of what it returns is the same for all of them, nor of tensors that are broadcast to each other.
    """
    if is_broadcast(node):
        _forget_lengths(value, labels)
    given = env.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if not isinstance(given, torch.Tensor) or not (cut := lengths.cut(node, given.dim())):
        return
    axes = labels.of(given).axes
    what = "padding" if call_kind(node) in PADS else "a slice"
    marks.freeze(f"{what} of channels that depends on an input", *(axes[dim] for dim in cut))
    _forget_lengths(value, labels)


def is_broadcast(node: fx.Node) -> bool:
    """Tell whether a call broadcasts tensors to each other, to one length."""
    given = getattr(node.target, "overloadpacket", node.target)
    return given in (torch.broadcast_tensors, torch.ops.aten.broadcast_tensors)


def _forget_lengths(value: Any, labels: Labels) -> None:
    for each in tensors_in(value):
        if labels.of(each).factors:
            labels.attach(each, dataclasses.replace(labels.of(each), factors=()))


def _read(node: fx.Node, free: tuple[bool, ...]) -> bool | tuple[bool, ...]:
    """Tell it of what a call reads of a tensor, of whose axes these have no channels."""
    if not reads_sizes(node) or node.target in ("numel", "nelement", torch.numel):
        return any(free)
    if node.target in ("dim", "__len__"):
        return node.target == "__len__" and free[0]
    dim = node.kwargs.get("dim", node.args[1] if node.target == "size" and len(node.args) > 1 else None)
    return free if dim is None else not isinstance(dim, int) or free[dim]


def bounds_at(node: fx.Node | None, dim: int, rank: int) -> list[Any]:
    """List the bounds by which an index cuts an axis of a tensor before its later axes."""
    if node is None or node.target not in (operator.getitem, operator.setitem):
        return []
    items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    found, axis = [], 0
    for at, item in enumerate(items):
        if item is Ellipsis:
            axis = rank - sum(later is not None for later in items[at + 1 :])
        if isinstance(item, slice) and (axis == dim or any(isinstance(each, fx.Node) for each in items[:at])):
            found += [item.start, item.stop, item.step]
        axis += isinstance(item, (slice, list, fx.Node)) or item is None
    return found


def _nodes(index: Any) -> Iterator[fx.Node]:
    """Yield the nodes in a nest of tuples and lists, but not in slices."""
    if isinstance(index, fx.Node):
        yield index
    elif isinstance(index, (tuple, list)):
        for each in index:
            yield from _nodes(each)
