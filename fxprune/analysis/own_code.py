"""Tell which axes of the inputs a user's own code is bound to, by runs at other sizes.

Capture keeps such code whole: the sizes that a view inside of it states are numbers, of which nothing tells where they
are from. The network runs again on the meta device, with other lengths of one kind of axis of its inputs after the
other; where the code lays out channels as before, it takes any.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from fxprune.arguments.inputs import Inputs
from fxprune.errors import FxpruneError
from fxprune.pytorch.torch_private import pytree

from .channels import Ids
from .state import AnalysisState


class Layout(NamedTuple):
    """What operators inside of a call make: channels on axes, and shapes."""

    channels: frozenset[tuple[str, ...]]
    shapes: frozenset[tuple[int, ...]]


# Of each call that lays out axes.
Layouts = Mapping[str, Layout]
InputAxis = tuple[int, int]  # the number of a tensor of the inputs, and of its axis
_Change = Mapping[InputAxis, int]  # other lengths of some

_VIEWS = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten"})
# Operators that move, join or cut what lies on axes; all others leave it.
_LAYS_OUT = _VIEWS | {
    "as_strided", "unfold", "repeat", "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "cat", "stack", "slice", "narrow", "select", "split", "split_with_sizes", "chunk",
    "unsafe_chunk", "unsafe_split", "unbind", "roll", "index", "index_select", "gather", "repeat_interleave",
    "constant_pad_nd",
}  # fmt: skip
# Lengths that windows inside of a call, and strides in front of it, do not bring to one.
_LONG, _VERY_LONG = 16, 64
_MOST = 100  # runs; a network of more inputs is bound to all of their sizes


def lays_out(operator: str, *, weights: bool) -> bool:
    """Tell whether an operator may lay out axes by sizes; of weights, a view does not."""
    return operator in (_LAYS_OUT - _VIEWS if weights else _LAYS_OUT)


def layouts(state: AnalysisState) -> Layouts:
    """Describe where own code that lays out axes puts channels."""
    known: dict[int, str] = {}

    def described(ids: Ids) -> str:
        if id(ids) not in known:
            known[id(ids)] = hashlib.sha256(state.channels.channel(ids).tobytes()).hexdigest()
        return known[id(ids)]

    found = {}
    for name, steps in state.notes.inside.items():
        if name not in state.notes.lays_out:
            continue
        made = steps.values()
        channels = frozenset(tuple(described(ids) for ids in axes if ids is not None) for axes, _ in made)
        found[name] = Layout(channels, frozenset(shape for _, shape in made))
    return found


def bounds(found: Layouts, inputs: Inputs, run: Callable[[Inputs], Layouts]) -> dict[str, frozenset[InputAxis]]:
    """Map calls of own code to the axes of inputs that they are bound to.

    Args:
        found: the layouts at the example.
        inputs: the example.
        run: returns the layouts at other inputs; raises FxpruneError where the network does not run on them.
    """
    return _Runs(found, inputs, run).bounds() if found else {}


class _Runs:
    """Runs of a network at other sizes, each once; arguments are those of :func:`bounds`."""

    def __init__(self, found: Layouts, inputs: Inputs, run: Callable[[Inputs], Layouts]) -> None:
        self._found, self._inputs, self._run = found, inputs, run
        self._shapes = [tuple(x.shape) for x in _tensors(inputs)]
        self._known: dict[frozenset[tuple[InputAxis, int]], Layouts | None] = {}

    def bounds(self) -> dict[str, frozenset[InputAxis]]:
        """Change one kind of axes after the other, on top of those that bind nothing."""
        free: dict[str, dict[InputAxis, int]] = {name: {} for name in self._found}
        agreed: dict[InputAxis, int] = {}
        waiting = list(_kinds(self._shapes))
        for kind in waiting:
            changes = self._taken(kind, agreed)
            waiting += [] if changes else _parts(kind)
            alike = [name for name in self._found if changes and all(self._is_alike(name, each) for each in changes)]
            for name in alike:
                free[name] |= changes[0]
            if len(alike) == len(self._found):
                agreed |= changes[0]
            if len(self._known) >= _MOST:
                free = {}
                break
        axes = frozenset((at, dim) for at, shape in enumerate(self._shapes) for dim in range(len(shape)))
        bound = {name: axes - each.keys() for name, each in free.items() if each and self._is_alike(name, each)}
        return dict.fromkeys(self._found, axes) | bound

    def _taken(self, kind: tuple[InputAxis, ...], agreed: _Change) -> list[_Change]:
        """List changes that the network takes: of axes together and alone, longer and shorter.

        Shorter ones, and those of one axis, keep the samples of the example: another number may hide what they show.
        Of long axes, one change is tried, a shorter one first, which costs less; none alone if it made them unlike.
        """
        is_long = all(self._shapes[at][dim] >= _VERY_LONG for at, dim in kind)
        for on in (agreed, {}) if agreed else ({},):
            longer, shorter = _changes(kind, self._shapes)
            first = self._first(on, [*shorter, *longer] if is_long else [*longer, *shorter])
            if first is None:
                continue
            more = [None if is_long else self._first({}, shorter)]
            if not self._is_seen(on, first):
                very_long = {axis: length * math.ceil(_VERY_LONG / max(length, 1)) for axis, length in first.items()}
                more.append(self._first({}, [very_long]))
            is_alone = len({at for at, _ in kind}) == 1 and len({first[axis] for axis in kind}) > 1
            parts = [] if is_long and is_alone else _parts(kind)
            for part in parts:
                parts += _parts(part)
                longer, shorter = _changes(part, self._shapes, odd=True)
                more += [self._first({}, each) for each in ([[*shorter, *longer]] if is_long else [longer, shorter])]
            return [first, *(each for each in more if each is not None)]
        return []

    def _first(self, on: _Change, changes: Iterable[_Change]) -> _Change | None:
        """Return the first change that the network takes, on top of another one."""
        return next((found for each in changes if self._at(found := {**on, **each}) is not None), None)

    def _is_seen(self, on: _Change, change: _Change) -> bool:
        """Tell whether a change gives another shape to something inside of each call."""
        before, after = self._at(on) or {}, self._at(change) or {}
        return all(name in after and after[name].shapes != before[name].shapes for name in self._found)

    def _is_alike(self, name: str, change: _Change) -> bool:
        """Tell whether a call lays out channels as at the example."""
        again = (self._at(change) or {}).get(name)
        return again is not None and again.channels == self._found[name].channels

    def _at(self, change: _Change) -> Layouts | None:
        """Return the layouts at other inputs; None: the network does not run there."""
        if not change:
            return self._found
        key = frozenset(change.items())
        if key not in self._known and len(self._known) < _MOST:
            self._known[key] = None
            with contextlib.suppress(FxpruneError):
                self._known[key] = self._run(_changed(self._inputs, change))
        return self._known.get(key)


def _kinds(shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[InputAxis, ...]]:
    """Yield the axes that may change together: samples, and all others of one length."""
    axes = [(at, dim) for at, shape in enumerate(shapes) for dim in range(len(shape))]
    for is_first in (True, False):
        each = [(at, dim) for at, dim in axes if (dim == 0) is is_first]
        for length in dict.fromkeys(shapes[at][dim] for at, dim in each):
            yield tuple((at, dim) for at, dim in each if shapes[at][dim] == length)


def _parts(kind: tuple[InputAxis, ...]) -> list[tuple[InputAxis, ...]]:
    """Take a kind of axes apart: by tensors, or one by one."""
    tensors = dict.fromkeys(at for at, _ in kind)
    if len(tensors) > 1:
        return [tuple(axis for axis in kind if axis[0] == at) for at in tensors]
    return [(axis,) for axis in kind] if len(kind) > 1 else []


def _changes(
    kind: tuple[InputAxis, ...], shapes: Sequence[tuple[int, ...]], *, odd: bool = False
) -> tuple[list[_Change], list[_Change]]:
    """List longer and shorter lengths of some axes, if possible unlike each other, then alike.

    ``odd``: first one that is no multiple of the length.
    """
    at, dim = kind[0]
    length = shapes[at][dim]
    if dim == 0 and len(shapes[at]) > 1:  # one sample more, or whole clips
        return [dict.fromkeys(kind, length + 1), dict.fromkeys(kind, 2 * length)], _positive(kind, [length - 1])
    dims = sorted({dim for _, dim in kind})
    times = max(2, math.ceil(_LONG / max(length, 1)))
    unlike = {(at, dim): length * (times + dims.index(dim)) for at, dim in kind}
    longer = [
        *_positive(kind, [length + length // 2] * odd),
        *([unlike] * (len(dims) > 1)),
        *_positive(kind, [length * times]),
    ]
    unlike = {(at, dim): length >> (1 + dims.index(dim)) for at, dim in kind}
    shorter = [*([unlike] * (len(dims) > 1 and min(unlike.values()) > 0)), *_positive(kind, [length // 2])]
    return longer, shorter


def _positive(kind: tuple[InputAxis, ...], lengths: Iterable[int]) -> list[_Change]:
    return [dict.fromkeys(kind, length) for length in lengths if length > 0]


def _changed(inputs: Inputs, change: _Change) -> Inputs:
    """Copy the inputs with other lengths, without numbers."""
    numbers: Iterable[int] = iter(range(len(_tensors(inputs))))

    def changed(x: torch.Tensor) -> torch.Tensor:
        if not x.dim():
            return x
        at = next(iter(numbers))
        sizes = [change.get((at, dim), size) for dim, size in enumerate(x.shape)]
        return torch.empty(sizes, dtype=x.dtype, device="meta")

    made: Inputs = pytree.tree_map_only(torch.Tensor, changed, inputs)
    return made


def _tensors(inputs: Inputs) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim()]
