"""Damage a graph by absurd constants, and by calls that do not end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from .damage_bytes import Damage

ABSURD = (
    10**5,
    10**6,
    10**9,
    10**12,
    10**15,
    2**31,
    2**40,
    2**62,
    2**63 - 1,
    -1,
    -2,
    -(10**9),
    -(2**63),
    1e18,
    -1e-300,
)
X: Any = object()  # an earlier node
# A call, and its arguments.
CALLS: tuple[tuple[str, list[Any]], ...] = (
    *(("operator.pow", [10**15, 10**15]), ("builtins.pow", [3, 10**12]), ("operator.lshift", [1, 10**12])),
    *(("operator.mul", ["ab", 10**12]), ("operator.mul", [[1, 2], 10**11]), ("operator.add", [X, X])),
    *(("operator.mul", [X, X]), ("operator.pow", [X, X]), ("operator.mod", ["%9999999999d", 1])),
    *(("math.factorial", [10**9]), ("math.comb", [10**9, 10**8]), ("builtins.round", [7, -(10**12)])),
    *(("builtins.list", [{"range": [0, 10**12, 1]}]), ("builtins.sum", [{"range": [0, 10**12, 1]}])),
    *(("torch.zeros", [[10**6, 10**6]]), ("torch.ones", [10**13]), ("torch.full", [[10**12], 1.0])),
    *(("torch.arange", [10**12]), ("torch.linspace", [0, 1, 10**12]), ("torch.eye", [10**7])),
    *(("torch.randperm", [10**12]), ("torch.tile", [X, [10**7, 10**7]]), ("torch.outer", [X, X])),
    *(("torch.cartesian_prod", [X, X, X, X]), ("torch.combinations", [X, 9]), ("torch.kron", [X, X])),
    *(("torch.repeat_interleave", [X, 10**12]), ("torch.nn.functional.one_hot", [X, 10**12])),
    *(("torch.nn.functional.pad", [X, [0, 10**12]]), ("torch.nn.functional.interpolate", [X, 10**12])),
    *(("torch.bincount", [X]), ("torch.matrix_power", [X, 10**18]), ("torch.vander", [X, 10**12])),
    *(("torch.fft.fft", [X, 10**12]), ("torch.as_strided", [X, [10**6, 10**6], [0, 0]])),
    *(("torch.cdist", [X, X]), ("torch.diag_embed", [X]), ("torch.split", [X, 1]), ("torch.tensor", [X])),
)
METHODS: tuple[tuple[str, list[Any]], ...] = (
    *(("repeat", [X, 10**6, 10**6, 1]), ("expand", [X, 10**6, 10**6, -1, -1, -1]), ("new_zeros", [X, [10**13]])),
    *(("unfold", [X, 0, 1, 1]), ("view", [X, 10**12, -1]), ("contiguous", [X]), ("sum", [X]), ("item", [X])),
)


def _insert(graph: Any, random: Random) -> str:
    """Put one to three calls before a node; the later ones read the earlier ones."""
    nodes, said = graph["nodes"], []
    place = random.randrange(1, len(nodes))
    names = [node["name"] for node in nodes[:place]]
    for number in range(random.choice((1, 1, 2, 3, 40))):
        op, (target, args) = random.choice(
            [*(("call", each) for each in CALLS), *(("method", each) for each in METHODS)]
        )
        near = names[-1] if number and random.random() < 0.8 else random.choice(names)
        name = f"put_{number}"
        given = [{"node": near} if each is X else each for each in args]
        nodes.insert(place + number, {"name": name, "op": op, "target": target, "args": given})
        names.append(name)
        said.append(target)
    if random.random() < 0.3:  # and let one of the others read the last of them
        reads = [each for node in nodes[place + len(said) :] for each in _reads(node)]
        random.choice(reads or [{}])["node"] = names[-1]
        said.append("read")
    return f"at {place} {' '.join(said)}"


def _endless(graph: Any, random: Random) -> str:
    """Put a chain of lawful calls before a node that may take a day; some behind a number."""
    nodes = graph["nodes"]
    place, size, often = random.randrange(1, len(nodes)), random.choice(SIZES), random.choice((1, 4, 30, 300, 3000))
    chain = [("call", target, args) for target, args in random.choice(LONG)(size, often)]
    if random.random() < 0.3:  # which no run without numbers can follow
        chain = [("method", "sum", [X]), ("method", "item", [X]), *chain]
    last, made = nodes[place - 1]["name"], []
    for number, (op, target, args) in enumerate(chain):
        given = [{"node": last} if each is X else each for each in args]
        last = f"put_{number}"
        made.append({"name": last, "op": op, "target": target, "args": given})
    nodes[place:place] = made
    return f"at {place} {len(made)} calls, {chain[-1][1]} of {size}"


SIZES = (30, 300, 1000, 3000, 10_000, 20_000)
# Chains of calls on something of a size, so many times.
LONG: tuple[Callable[[int, int], list[tuple[str, list[Any]]]], ...] = (
    lambda size, often: [("torch.ones", [[size, size]]), *[("torch.matmul", [X, X])] * often],
    lambda size, often: [("torch.ones", [[size, size]]), *[("torch.linalg.matrix_exp", [X])] * often],
    lambda size, often: [("torch.eye", [size]), *[("torch.linalg.inv", [X])] * often],
    lambda size, often: [("torch.ones", [[size, size]]), ("torch.linalg.eigvals", [X])],
    lambda size, often: [("torch.ones", [[size, size]]), ("torch.linalg.matrix_power", [X, 2**often % 2**62])],
    lambda size, often: [("torch.ones", [[size, size]]), ("torch.cdist", [X, X]), ("torch.kthvalue", [X, 1])],
    lambda size, often: [("torch.rand", [size * size]), *[("torch.fft.fft", [X])] * often],
    lambda size, often: [("torch.rand", [size * size]), *[("torch.cumprod", [X, 0])] * often],
    lambda size, often: [("torch.rand", [size * size]), ("torch.tensor_split", [X, size * often])],
    lambda size, often: [("torch.rand", [size * size]), ("torch.chunk", [X, size * often])],
    lambda size, often: [("torch.rand", [size * often]), ("torch.unbind", [X])],
    lambda size, often: [("torch.ones", [1, 1, size, size]), ("torch.nn.functional.avg_pool2d", [X, size // 2, 1])],
    lambda size, often: [("torch.ones", [1, 1, size, size]), *[("torch.nn.functional.relu", [X])] * often],
    lambda size, often: [("torch.rand", [size]), ("torch.special.legendre_polynomial_p", [X, 10**often % 10**12])],
)


def _reads(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if value.keys() == {"node"}:
            yield value
        for each in value.values():
            yield from _reads(each)
    if isinstance(value, list):
        for each in value:
            yield from _reads(each)


def _constants(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a number, and its key."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, (dict, list)):
            yield from _constants(each)
        elif isinstance(each, (int, float)):
            yield value, key


def _absurd(graph: Any, random: Random) -> str:
    """Replace one constant, or some, of the arguments and settings."""
    places = list(_constants({"nodes": graph["nodes"], "layers": graph["layers"]}))
    said = []
    for inside, key in random.sample(places, min(len(places), random.choice((1, 1, 2)))):
        inside[key] = random.choice(ABSURD)
        said.append(f"{key}: {inside[key]}")
    return ", ".join(said)


def _damage(change: Any) -> Damage:
    def damage(path: Path, random: Random) -> str:
        graph = json.loads(path.read_text())
        said = change(graph, random)
        path.write_text(json.dumps(graph))
        return str(said)

    return damage


GRAPH: dict[str, Damage] = {"calls": _damage(_insert), "constants": _damage(_absurd), "endless": _damage(_endless)}


def _clusters(path: Path, random: Random) -> str:
    """Let other channels merge, with widths that agree."""
    plan = json.loads(path.read_text())
    name = random.choice(sorted(plan["clusters"]))
    before = plan["clusters"][name]
    count = random.choice((max(before) + 1, max(before) + 1, random.randint(1, len(before))))
    drawn = [*range(count), *(random.randrange(count) for _ in before[count:])]
    random.shuffle(drawn)
    plan["clusters"][name] = drawn
    if name in plan.get("widths", {}):
        plan["widths"][name] = count
    path.write_text(json.dumps(plan))
    return f"{name}: {before} to {drawn}"


CLUSTERS: dict[str, Damage] = {"clusters": _clusters}
