"""A block that runs several times is written once: its calls are runs of nodes alike.

A head runs on each level of a pyramid, a cell at each step. Runs do the same if each node of one has its twin in the
other, with the same target and constants, and reads the twins of what it reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch import fx

Run = tuple[int, int]


def runs_of(nodes: Sequence[fx.Node], positions: Sequence[int]) -> list[Run]:
    """Return first and last node of each run that calls a block; none if no two do the same.

    Args:
        nodes: of the block around it.
        positions: where its layers and tensors are read.
    """
    targets = [nodes[position].target for position in positions]
    most = math.gcd(*Counter(targets).values())
    for count in range(most, 1, -1):
        length, rest = divmod(len(targets), count)
        if rest or targets != targets[:length] * count:
            continue
        runs = [(positions[start], positions[start + length - 1]) for start in range(0, len(positions), length)]
        first = nodes[runs[0][0] : runs[0][1] + 1]
        if all(twins(first, nodes[here : last + 1]) is not None for here, last in runs[1:]):
            return runs
    return []


def twins(one: Sequence[fx.Node], other: Sequence[fx.Node]) -> Mapping[fx.Node, fx.Node] | None:
    """Map each node of a run, and each that it reads, to another run's; None if they differ."""
    if len(one) != len(other):
        return None
    twin: dict[fx.Node, fx.Node] = {}
    inside, ours = dict(zip(one, other, strict=True)), set(other)
    for a, b in inside.items():
        if (a.op, a.target) != (b.op, b.target):
            return None
        for x, y in read_by(a, b):
            if inside.get(x, y) is not y or (y in ours and x not in inside) or twin.setdefault(x, y) is not y:
                return None
        # Text tells 1 from 1.0 and from True.
        if repr(fx.node.map_arg((a.args, dict(a.kwargs)), lambda n: twin.get(n, n))) != repr((b.args, dict(b.kwargs))):
            return None
    return twin | inside


def read_by(a: fx.Node, b: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pair what two nodes read; where one reads more, the texts of their arguments differ."""
    read: list[list[fx.Node]] = []
    for node in (a, b):
        read.append([])
        fx.node.map_arg((node.args, node.kwargs), read[-1].append)
    return zip(*read, strict=False)
