"""Test whether a call that is one node adapts to a narrow input, or depends on its width.

The call runs again on the meta device, with half of the channels that may still merge. Then each operator inside must
have the same numbers as before, except sizes, and return axes that are as long as the labels of the wide run demand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.pytorch.modules import MetaMode, map_tensors, named_tensors
from fxprune.pytorch.shaped_layers import ADAPT
from fxprune.pytorch.torch_private import no_dispatch, op_arguments, pytree

from .channels import Ids
from .labels import Label, tensors_in
from .state import AnalysisState


def not_adapting(
    state: AnalysisState, call: Callable[..., Any], args: Any, kwargs: Any, value: Any, layer: str = ""
) -> Ids | None:
    """Return the channels that a call depends on the number of; None: it cannot be told.

    With narrow inputs, all is narrow inside where it has such channels, and the same elsewhere. Axes are tried
    together, and if that fails, those of a function one by one: the length of one may decide which way it goes.

    Args:
        state: holds the labels of tensors; it is not changed.
        call: a function or a module.
        args: positional arguments of the wide call, tensors on the meta device.
        kwargs: its keyword arguments.
        value: what it returned.
        layer: name of the call if it is a layer that the rewrite adapts: it becomes narrow, too.
    """
    own = [tensor for _, tensor in named_tensors(call)] if isinstance(call, nn.Module) and layer else []
    labels = {id(tensor): state.origins.label(tensor) for tensor in (*tensors_in((args, kwargs)), *own)}
    channel = state.channels.channel
    frozen = channel(np.concatenate([event.ids for event in state.marks.frozen] or [np.zeros(0, np.int64)]))
    # Frozen channels never change.
    axes = [np.setdiff1d(channel(ids), frozen) for label in labels.values() for ids in label.axes if ids is not None]
    axes = [ids for ids in axes if len(ids)]
    trial = _Trial(state, call, args, kwargs, value, layer, labels)
    every = np.unique(np.concatenate([np.zeros(0, np.int64), *axes]))
    if not len(every) or trial.holds(every):
        return every[:0]
    fixed = [] if isinstance(call, nn.Module) else [ids for ids in axes if not trial.holds(ids)]
    rest = np.setdiff1d(every, np.concatenate(fixed)) if fixed else every[:0]
    return np.setdiff1d(every, rest) if len(rest) and trial.holds(rest) else None


@dataclass(frozen=True)
class _Trial:
    """A call and what it returned in full width; fields are those of :func:`not_adapting`."""

    state: AnalysisState
    call: Callable[..., Any]
    args: Any
    kwargs: Any
    value: Any
    layer: str
    labels: Mapping[int, Label]

    def holds(self, channels: Ids) -> bool:
        """Tell whether the call runs alike with half of these channels, and with all others."""
        kept = channels[::2]

        def sizes(shape: torch.Size, label: Label) -> tuple[int, ...]:
            lengths = []
            for dim, (size, axis) in enumerate(zip(shape, label.axes, strict=True)):
                axis = label.waiting(dim) if axis is None else axis
                inside = None if axis is None else self.state.channels.channel(axis)
                lengths.append(
                    size if inside is None else int((np.isin(inside, kept) | ~np.isin(inside, channels)).sum())
                )
            return tuple(lengths)

        def narrow(tensor: Tensor) -> Tensor:
            return torch.empty(sizes(tensor.shape, self.labels[id(tensor)]), dtype=tensor.dtype, device="meta")

        def narrow_layer(call: nn.Module) -> nn.Module:
            small = map_tensors(call, lambda _, tensor: narrow(tensor))
            given, label = self.state.layers.found[self.layer][-1]
            next(ADAPT[kind] for kind in type(small).__mro__ if kind in ADAPT)(small, given, sizes(given, label))
            return small

        given = (self.args, self.kwargs)
        try:
            wide = _Operators(bool(self.layer))
            wide.run(self.call, *pytree.tree_map_only(Tensor, torch.empty_like, given))
            small = narrow_layer(self.call) if isinstance(self.call, nn.Module) and self.layer else self.call
            found = _Operators(bool(self.layer))
            result = found.run(small, *pytree.tree_map_only(Tensor, narrow, given))
        except Exception:  # a fixed width may cause any exception
            return False
        if wide.numbers != found.numbers or _numbers_in(self.value) != _numbers_in(result):
            return False
        made = [(op, [(sizes(*each), _has_ids(each[1])) for each in made]) for op, made in self._made()]
        if len(made) != len(found.made) or not all(map(_agree, made, found.made)):
            return False
        returned = [sizes(tensor.shape, self.state.labels.of(tensor)) for tensor in tensors_in(self.value)]
        return returned == [tuple(tensor.shape) for tensor in tensors_in(result)]

    def _made(self) -> list[tuple[Any, list[tuple[torch.Size, Label]]]]:
        return [(op, made) for op, made in self.state.made if op not in _LAYOUT]


def _agree(wanted: tuple[Any, list[tuple[tuple[int, ...], bool]]], found: tuple[Any, list[tuple[int, ...]]]) -> bool:
    """Tell whether an operator returned what its wide results, some of them labelled, demand."""
    (op, made), (other, shapes) = wanted, found
    if op is not other or len(made) != len(shapes):
        return False
    # Beside a labelled result, one without a label is a statistic that is kept for a gradient.
    counts = [not place or labelled or not made[0][1] for place, (_, labelled) in enumerate(made)]
    return all(size == shape for (size, _), shape, count in zip(made, shapes, counts, strict=True) if count)


def _has_ids(label: Label) -> bool:
    return any(ids is not None for ids in (*label.axes, *label.uniform))


def _numbers_in(value: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(value) if type(leaf) in (bool, int, float, complex)]


class _Operators(MetaMode):
    """A mode that notes operators with their numbers, and the sizes of their results.

    Attributes:
        numbers: the operators, with all numbers that are no sizes of results.
        made: the operators, with the sizes of their results.
    """

    def __init__(self, in_layer: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: list[Any] = []
        self.made: list[Any] = []
        self._sizes = _SIZES | _OF_LAYERS if in_layer else _SIZES

    def run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function or a module."""
        with self, _Constants(self.numbers), torch.device("meta"):
            return call(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with no_dispatch():
            return super().__torch_dispatch__(func, types, args, kwargs)

    def done(self, func: Any, args: Any, kwargs: Any, out: Any, layout: Any) -> Any:
        if func.overloadpacket in _LAYOUT:
            return out
        kinds = {argument.name: str(argument.type) for argument in op_arguments(func)}
        given = [*zip(kinds, args, strict=False), *kwargs.items()]
        numbers = [each for name, each in given if name not in self._sizes or kinds[name] in _NUMBERS]
        self.numbers.append((func, _numbers_in(numbers)))
        self.made.append((func.overloadpacket, [tuple(tensor.shape) for tensor in tensors_in(out)]))
        return out


# Whether a reshape copies depends on strides, which narrow inputs do not share.
_LAYOUT = {torch.ops.aten.view, torch.ops.aten.clone, torch.ops.aten._unsafe_view, torch.ops.aten.alias}
# Types of arguments that are numbers; a tensor may be one.
_NUMBERS = ("number", "Tensor", "Optional[number]", "Optional[Tensor]")
# Arguments that state sizes of the input or of results, which are compared.
_SIZES = frozenset({
    "size", "sizes", "shape", "end", "length", "split_size", "split_sizes", "repeats", "normalized_shape", "C",
})  # fmt: skip
# Arguments that follow the attributes of a layer, which the rewrite adapts.
_OF_LAYERS = frozenset({"groups", "group"})


class _Constants(TorchFunctionMode):
    """A mode that notes the numbers of new tensors, which the meta device does not keep."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            self._found.append(_numbers_in((args, kwargs)))
        return func(*args, **(kwargs or {}))
