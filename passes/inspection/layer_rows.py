"""List the layers of a network in order, and the groups that their channels belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxprune.coupling import Coupling

from .facts import source_lines


@dataclass(frozen=True)
class AxisChannels:
    """Channels on an axis of a weight: how many, of which group; None: they are frozen."""

    group: str | None
    channels: int


@dataclass(frozen=True)
class LayerRow:
    """A layer with a weight of two axes or more.

    Attributes:
        name: of the layer.
        source: line of the model's source that uses it, or ``-``.
        shape: of its largest weight.
        makes: the channels that it makes; a group that carries positions in several places counts with all.
        reads: the channels that it reads; empty where it reads what it makes, as a depthwise convolution.
        frozen: why channels of these axes are frozen, in words.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    makes: tuple[AxisChannels, ...]
    reads: tuple[AxisChannels, ...]
    frozen: tuple[str, ...]

    @property
    def width(self) -> int:
        """The number of channels that it makes."""
        return sum(part.channels for part in self.makes)


def layer_rows(coupling: Coupling) -> list[LayerRow]:
    """List the layers with a weight, in the order in which the graph uses them."""
    weights: dict[str, str] = {}
    for name, shape in coupling.shapes.items():
        owner = name.rpartition(".")[0] or name
        if len(shape) > 1 and len(shape) > len(coupling.shapes.get(weights.get(owner, ""), ())):
            weights[owner] = name
    lines = source_lines(coupling)
    order = {layer: place for place, layer in enumerate(lines)}
    tied, read = _axis_channels(coupling, tied=True), _axis_channels(coupling, tied=False)
    why = {axis: each.why for each in coupling.frozen for axis in each.what}
    rows = []
    for layer in sorted(weights, key=lambda layer: order.get(layer, len(order))):
        parameter, shape = weights[layer], coupling.shapes[weights[layer]]
        axes = [f"{parameter}:{dim}" for dim in range(len(shape))]
        if not any(axis in tied or axis in read or axis in why for axis in axes):
            continue
        reads = next((dim for dim, axis in enumerate(axes) if axis in read), None)
        free = [dim for dim in range(len(shape)) if dim != reads and shape[dim] > 1]
        makes = next((dim for dim in free if axes[dim] in tied), free[0] if free else 0)
        if reads is None:  # what a first layer reads is frozen
            reads = next((dim for dim in free if dim != makes and axes[dim] in why), None)
        found = [_filled(each.get(axes[dim], ()), shape[dim]) for each, dim in ((tied, makes),)]
        seen = () if reads is None else _filled(read.get(axes[reads], ()), shape[reads])
        reasons = [
            f"{stretches[-1].channels} {verb} and frozen: {why.get(axes[dim], 'their positions have no other use')}"
            for stretches, verb, dim in ((found[0], "made", makes), (seen, "read", reads))
            if dim is not None and stretches and stretches[-1].group is None
        ]
        rows.append(LayerRow(layer, lines.get(layer, "-"), shape, found[0], seen, tuple(reasons)))
    return rows


def _axis_channels(coupling: Coupling, *, tied: bool) -> Mapping[str, Sequence[AxisChannels]]:
    """Map each axis of a parameter to the parts of it that belong to groups."""
    found = defaultdict(list)
    for group in coupling.groups.values():
        for axis in group.tied if tied else group.readers:
            found[f"{axis.parameter}:{axis.dim}"].append(AxisChannels(group.name, axis.positions.size))
    return found


def _filled(stretches: Iterable[AxisChannels], length: int) -> tuple[AxisChannels, ...]:
    known = tuple(stretches)
    rest = length - sum(part.channels for part in known)
    return (*known, AxisChannels(None, rest)) if rest > 0 else known
