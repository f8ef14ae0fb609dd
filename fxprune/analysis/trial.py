"""Test whether a call that is one node adapts to a narrow input, or depends on its width.

The call runs again on the meta device, with half of the channels that may still merge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune.pytorch.layer_sizes import ADAPT
from fxprune.pytorch.modules import MetaMode, map_tensors, named_tensors
from fxprune.pytorch.torch_private import functions_plain, no_dispatch, op_arguments, pytree

from .channels import Ids
from .labels import Label, tensors_in
from .marks import Event
from .state import AnalysisState


def not_adapting(
    state: AnalysisState,
    call: Callable[..., Any],
    given: tuple[Any, Any],
    wide: tuple[Any, Steps],
    layer: str = "",
    original: Callable[..., Any] | None = None,
) -> Ids | None:
    """Return the channels that a call depends on the number of; None: it is not known.

    With narrow inputs, it computes with the same operators and numbers, and each tensor that they read is as narrow as
    its label says. Axes are tried together, and if that fails, those of a function one by one: the length of one may
    decide which way it goes.

    Args:
        state: holds the labels of tensors, and the trials so far.
        call: a function or a module.
        given: positional and keyword arguments of the wide call, tensors on the meta device.
        wide: what it returned, and what :func:`recorded` noted of it.
        layer: name of the call if it is a layer that the rewrite adapts: it becomes narrow, too.
        original: the call as the network has it, without what watches it; None: as it is.
    """
    own = [tensor for _, tensor in named_tensors(call)] if isinstance(call, nn.Module) and layer else []
    labels = {id(tensor): state.origins.label(tensor) for tensor in (*tensors_in(given), *own)}
    channel = state.channels.channel
    frozen = np.zeros(state.channels.count, np.bool_)
    frozen[channel(np.concatenate([event.ids for event in state.marks.frozen] or [np.zeros(0, np.int64)]))] = True
    axes = {id(ids): channel(ids) for label in labels.values() for ids in label.axes if ids is not None}
    trial = _Trial(state, call, given, *wide, layer, labels)
    every = np.concatenate([np.zeros(0, np.int64), *axes.values()])
    every = np.unique(every[~frozen[every]])  # frozen channels never change
    if not len(every):
        return every
    try:
        key = _described(original or call), trial.key(frozen)
        if key not in state.trials:
            state.trials[key] = trial.holds(every)
        holds = state.trials[key]
    except (TypeError, RecursionError):  # something has no description
        holds = trial.holds(every)
    if holds:
        return every[:0]
    apart = [] if isinstance(call, nn.Module) else [np.unique(ids[~frozen[ids]]) for ids in axes.values()]
    fixed = [ids for ids in apart if len(ids) and not trial.holds(ids)]
    rest = np.setdiff1d(every, np.concatenate(fixed)) if fixed else every[:0]
    return np.setdiff1d(every, rest) if len(rest) and trial.holds(rest) else None


def known_from(state: AnalysisState, read: list[Tensor], made: list[Event]) -> bool:
    """Tell whether the channels on axes that a call made are those of what it reads, or frozen."""
    channel = state.channels.channel
    axes = [ids for tensor in read for ids in state.labels.of(tensor).axes if ids is not None]
    axes += [event.ids for event in state.marks.frozen]
    known = channel(np.concatenate([np.zeros(0, np.int64), *axes]))
    return all(bool(np.isin(channel(event.ids), known).all()) for event in made)


@dataclass(frozen=True)
class _Trial:
    """A call and what it returned in full width; fields are those of :func:`not_adapting`."""

    state: AnalysisState
    call: Callable[..., Any]
    given: tuple[Any, Any]
    value: Any
    wide: Steps
    layer: str
    labels: Mapping[int, Label]

    def key(self, frozen: NDArray[np.bool_]) -> Any:
        """Describe what the outcome depends on beside the call; channels by their first occurrence."""
        tensors = tensors_in((self.given, self.value, [step.read for step in self.wide]))
        labels = [*self.labels.values(), *map(self.state.origins.label, tensors)]
        labels += [label for _, label in self.state.layers.found.get(self.layer, [])[-1:]]
        axes = [label.waiting(dim) if ids is None else ids for label in labels for dim, ids in enumerate(label.axes)]
        ids = np.concatenate([np.zeros(0, np.int64), *(each for each in axes if each is not None)])
        channels = self.state.channels.channel(ids)
        _, first, which = np.unique(channels, return_index=True, return_inverse=True)
        lengths = tuple(None if each is None else len(each) for each in axes)
        pattern = first[which].tobytes(), frozen[channels].tobytes()
        return self.layer != "", _described((self.given, self.value, self.wide)), lengths, pattern

    def holds(self, channels: Ids) -> bool:
        """Tell whether the call runs alike with half of these channels, and with all others.

        With other numbers of them it may not run, as where they belong to heads, but may not run otherwise.
        """
        others = (channels[:-1], channels[::3])
        return self._runs_alike(channels, channels[::2]) is True and all(
            self._runs_alike(channels, kept, shapes=False) is not False for kept in others if len(kept)
        )

    def _runs_alike(self, channels: Ids, kept: Ids, *, shapes: bool = True) -> bool | None:
        gone = np.zeros(self.state.channels.count, np.bool_)
        gone[channels], gone[kept] = True, False

        def sizes(shape: torch.Size, label: Label) -> tuple[int, ...]:
            lengths = []
            for dim, (size, axis) in enumerate(zip(shape, label.axes, strict=True)):
                ids = label.waiting(dim) if axis is None else axis
                away = 0 if ids is None else np.count_nonzero(gone[self.state.channels.channel(ids)])
                lengths.append(size - int(away))
            return tuple(lengths)

        def narrow(tensor: Tensor) -> Tensor:
            return torch.empty(sizes(tensor.shape, self.labels[id(tensor)]), dtype=tensor.dtype, device="meta")

        def narrow_layer(call: nn.Module) -> nn.Module:
            small = map_tensors(call, lambda _, tensor: narrow(tensor))
            given, label = self.state.layers.found[self.layer][-1]
            next(ADAPT[kind] for kind in type(small).__mro__ if kind in ADAPT)(small, given, sizes(given, label))
            return small

        def as_narrow(wide: Any, found: Any) -> bool:
            shapes = [sizes(tensor.shape, self.state.origins.label(tensor)) for tensor in tensors_in(wide)]
            return shapes == [tuple(tensor.shape) for tensor in tensors_in(found)]

        try:
            with functions_plain(), no_dispatch():  # else rules would take these tensors for a use of the wide ones
                small = narrow_layer(self.call) if isinstance(self.call, nn.Module) and self.layer else self.call
                args, kwargs = pytree.tree_map_only(Tensor, narrow, self.given)
            with recorded(trial=True) as steps:
                result = small(*args, **kwargs)
        except Exception:  # a fixed width may cause any exception
            return None
        both = [*zip(self.wide, steps, strict=False)]
        read = [(one.read, other.read) for one, other in both]
        return (
            len(steps) == len(self.wide)
            and _numbers_in(self.value) == _numbers_in(result)
            and all(_alike(*each) for each in both)
            and not (shapes and not all(as_narrow(*each) for each in [(self.value, result), *read]))
        )


def _described(value: Any) -> Any:
    """Describe a call or what it is given: modules of one class with equal attributes are alike."""
    kind: Any = type(value)
    if kind in _VALUES:  # most of them
        return kind, value
    if isinstance(value, nn.Module):
        return kind, _described(vars(value))
    if isinstance(value, Tensor):
        return kind, value.shape, value.stride(), value.dtype, value.requires_grad
    if isinstance(value, dict):
        return kind, *map(_described, value.items())
    if isinstance(value, (list, tuple, set)):
        return kind, *map(_described, value)
    if kind.__eq__ is not object.__eq__:
        raise TypeError(f"{kind.__name__} may call unlike objects equal")
    return kind, value


_VALUES = frozenset({type(None), bool, int, float, complex, str, bytes, torch.device})


class Step(NamedTuple):
    """An operator, the numbers that it is given, by name, and the tensors without numbers."""

    func: Any
    given: list[tuple[str, Any]]
    read: Sequence[Tensor] = ()


Steps = list[Step]


def _alike(one: Step, other: Step) -> bool:
    """Tell whether two steps compute with the same numbers; sizes of results are none."""
    return (
        one.func == other.func
        and [name for name, _ in one.given] == [name for name, _ in other.given]
        and all(
            a == b
            or name in _SIZES
            or (name in _ENDS and a[1] != b[1])
            or (name == "group" and (a[0] == b[0] or (a[1] and b[1])))  # groups of one channel are as many as these
            for (name, a), (_, b) in zip(one.given, other.given, strict=True)
        )
    )


# Arguments that the sizes of tensors determine; and ends of a slice, with the length of its axis.
_SIZES = frozenset({
    "size", "split_size", "split_sizes", "normalized_shape", "groups", "output_size", "N", "C", "HxW",
})  # fmt: skip
_ENDS = ("slice start", "slice end")


@contextlib.contextmanager
def recorded(*, trial: bool = False) -> Iterator[Steps]:
    """Yield a list of what runs in the block; ``trial``: no other mode sees it."""
    steps: Steps = []
    with _Operators(steps, trial), _Constants(steps):
        yield steps


def _numbers_in(value: Any) -> list[int | float]:
    return [leaf for leaf in pytree.tree_leaves(value) if type(leaf) in (bool, int, float)]


class _Operators(MetaMode):
    """A mode that notes operators, their numbers, and what they read."""

    def __init__(self, steps: Steps, trial: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps, self._trial = steps, trial

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with no_dispatch():
            given = _given(func, args, kwargs)
            out = super().__torch_dispatch__(func, types, args, kwargs) if self._trial else None
        if not self._trial:
            out = func(*args, **kwargs)
        if func.overloadpacket not in _LAYOUT:
            self._steps.append(Step(func, given, [each for each in tensors_in((args, kwargs)) if each.is_meta]))
        return out


def _given(func: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
    names = [argument.name for argument in op_arguments(func)]
    named = [*zip(names, args, strict=False), *kwargs.items()]
    found = [(name, leaf) for name, value in named for leaf in _leaves(value)]
    given = [
        (name, leaf.tolist() if isinstance(leaf, Tensor) else leaf)
        for name, leaf in found
        if not isinstance(leaf, torch.device) and not (isinstance(leaf, Tensor) and leaf.is_meta)
    ]
    if func.overloadpacket is torch.ops.aten.native_group_norm:
        channels = dict(given)["C"]
        return [(name, (leaf, leaf == channels) if name == "group" else leaf) for name, leaf in given]
    if func.overloadpacket is not torch.ops.aten.slice:
        return given
    length = args[0].shape[dict(given).get("dim", 0)]
    return [(f"slice {name}", (leaf, length)) if name in ("start", "end") else (name, leaf) for name, leaf in given]


def _leaves(value: Any) -> list[Any]:
    return [value] if type(value) in _VALUES or isinstance(value, Tensor) else pytree.tree_leaves(value)


# Whether a reshape copies depends on strides, which narrow inputs do not share.
_LAYOUT = {torch.ops.aten.view, torch.ops.aten.clone, torch.ops.aten._unsafe_view, torch.ops.aten.alias}


class _Constants(TorchFunctionMode):
    """A mode that notes the numbers of new tensors, which the meta device does not keep."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps = steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor):
            self._steps.append(Step(func, [("", each) for each in _numbers_in((args, kwargs))]))
        return func(*args, **(kwargs or {}))
