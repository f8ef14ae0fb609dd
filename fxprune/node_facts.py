"""The facts that a coupling holds about the nodes of its graph: sizes, codes, MACs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# The code of each position of an axis; -1: it never changes.
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shape:
    """The sizes of a tensor in the graph, and the codes on each axis; None: no channels.

    ``varying``: the axes of channels that also hold positions, as flattened images do: other inputs have other lengths.
    """

    sizes: tuple[int, ...]
    axes: tuple[Codes | None, ...]
    varying: tuple[int, ...] = ()

    @property
    def labelled(self) -> bool:
        """Tell whether any axis carries channels, prunable or frozen."""
        return any(axis is not None for axis in self.axes)

    def fits(self, value: Any) -> bool:
        """Tell whether a value is a tensor whose axes with channels are as long as here."""
        if not isinstance(value, torch.Tensor) or value.dim() != len(self.sizes):
            return False
        return all(axis is None or len(axis) == size for axis, size in zip(self.axes, value.shape, strict=True))


@dataclass(frozen=True, eq=False)
class Work:
    """The MACs of one contraction at the analysed input.

    Attributes:
        macs: multiply-accumulates.
        axes: with the share of each they scale; the last has the channels that it makes, if it makes any.
    """

    macs: int
    axes: tuple[Codes, ...]


@dataclass(frozen=True, eq=False)
class NodeFacts:
    """The facts about one fx node.

    Attributes:
        value: the node's value with every tensor replaced by its :class:`Shape`, ints and None kept.
        products: for each axis of channels that a sum runs over, its codes and a power of the cluster size. The narrow
            result must be multiplied by it; to a logarithm, add the factor's logarithm.
        works: contractions inside the node.
        places: positions among channels that a constant index picks, or puts values at; None: there is no such index.
        guarded: axes that hold channels only where they are as long as at the analysed input.
        squeezed: axes of what a squeeze gets that it may remove, or leave, for other inputs.
        is_mask: the value is a tensor of truth values: as an index, it takes as many axes as it has.
        binds: axes of the inputs, by name and number, that must be as long as in the example, since a user's own code
            inside the call may lay out channels otherwise for others.
        put_back: the view with a step to which the node writes: a copy in a narrow network.
    """

    value: Any
    products: tuple[tuple[Codes, float], ...]
    works: tuple[Work, ...]
    places: Codes | None = None
    guarded: tuple[int, ...] = ()
    squeezed: tuple[int, ...] = ()
    is_mask: bool = False
    binds: frozenset[tuple[str, int]] = frozenset()
    put_back: str = ""
