"""Find the blocks of a graph that can be called, and what each gets and returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from .regions import MOST_INPUTS, MOST_OUTPUTS, Region, Regions
from .repeats import read_by


def find_blocks(
    graph: fx.Graph, modules: Mapping[str, nn.Module], values: Mapping[fx.Node, Any]
) -> tuple[Region, Mapping[fx.Node, fx.Node]]:
    """Return the outermost block, and for each node that hands a value on, whose value it is.

    A list of layers is a block if each layer reads what the one before it returns; its layers are called one by one
    otherwise, as are those of a block that has too many inputs. A block that cannot be called once may be called
    several times, each on its own inputs.
    """
    same = _handed_on(graph, modules)
    written_out: Counter[str] = Counter()
    usual = Regions(graph, modules, written_out, {}).ends
    while True:
        root = Regions(graph, modules, written_out, usual).root
        _prune(root, same)
        found: set[str] = set()
        _connect(root, same, found)
        if not found:
            return root, same
        written_out.update(found)


def is_chain(region: Region) -> bool:
    """Tell whether a block calls numbered layers in order, each on what the last one returned."""
    before: list[fx.Node] = region.inputs
    numbers = []
    for item in region.items:
        if isinstance(item, Region):
            name, given, made = item.path, item.inputs, item.outputs
        elif item.op == "call_module" and len(item.args) == 1 and not item.kwargs:
            name, given, made = str(item.target), list(item.all_input_nodes), [item]
        else:
            return False
        parent, _, last = name.rpartition(".")
        if parent != region.path or not last.isdecimal() or len(given) != 1 or len(made) != 1 or given != before:
            return False
        numbers.append(int(last))
        before = made
    return bool(numbers) and before == region.outputs and numbers == sorted(set(numbers)) and numbers[-1] < 4096


def _handed_on(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> dict[fx.Node, fx.Node]:
    same: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
            continue
        layer = modules[str(node.target)]
        if type(layer) is nn.Identity or (type(layer) is nn.Dropout and layer.p == 0):
            same[node] = same.get(node.args[0], node.args[0])
    return same


def _prune(region: Region, same: Mapping[fx.Node, fx.Node]) -> None:
    """Remove layers that do nothing, and blocks of only such layers."""
    items: list[fx.Node | Region] = []
    for item in region.items:
        if isinstance(item, Region):
            _prune(item, same)
            if any(n.op == "call_module" for n in item.nodes()) or any(n.op != "get_attr" for n in item.nodes()):
                items.append(item)
            else:
                items += item.items
        elif item not in same:
            items.append(item)
    region.items = items


def _connect(root: Region, same: Mapping[fx.Node, fx.Node], found: set[str]) -> None:
    """Find inputs and outputs of each block, and the names of those that cannot be called."""
    where: dict[fx.Node, tuple[Region, ...]] = {}

    def assign(region: Region, chain: tuple[Region, ...]) -> None:
        chain = (*chain, region)
        for item in region.items:
            if isinstance(item, Region):
                assign(item, chain)
            else:
                where[item] = chain

    assign(root, ())
    for node in (n for n in _all_nodes(root) if n.op != "placeholder"):
        _read(node, where, same)
    output = (
        next(iter(node for node in next(_all_nodes(root)).graph.nodes if node.op == "output")) if root.items else None
    )
    if output is not None:
        for given in dict.fromkeys(same.get(n, n) for n in output.all_input_nodes):
            for region in where.get(given, ())[1:]:
                if given not in region.outputs:
                    region.outputs.append(given)
    order = {node: index for index, node in enumerate(next(_all_nodes(root)).graph.nodes)} if root.items else {}

    regions = [root, *inner(root)]
    later = [(region, _first(region)) for region in regions if region.first is not None]
    for region, first in later:
        back = dict(zip(region.nodes(), first.nodes(), strict=True))
        first.outputs += [back[n] for n in region.outputs if back[n] not in first.outputs]
    for region in regions:
        region.inputs.sort(key=order.__getitem__)
        region.outputs.sort(key=order.__getitem__)
    found |= {region.path for region, first in later if not _called_alike(region, first, same)}
    for region in regions[1:]:
        children = {n.split(".")[0] for n in _names_below(region)}
        listed = any(name.isdecimal() for name in children)
        if (
            len(region.inputs) > MOST_INPUTS
            or not 1 <= len(region.outputs) <= MOST_OUTPUTS
            or (listed and not is_chain(region))
        ):
            found.add(region.path)


def _called_alike(region: Region, first: Region, same: Mapping[fx.Node, fx.Node]) -> bool:
    """Give a later call inputs and outputs in the first one's order; tell if possible."""
    twin, given = dict(zip(first.nodes(), region.nodes(), strict=True)), dict[fx.Node, fx.Node]()
    alike = True
    for a, b in twin.items():
        for x, y in read_by(a, b):
            y = same.get(y, y)
            alike = alike and given.setdefault(same.get(x, x), y) is y
    region.outputs = [twin[n] for n in first.outputs]
    region.inputs = [given[x] for x in first.inputs if x in given]
    return alike


def _first(region: Region) -> Region:
    return region if region.first is None else _first(region.first)


def inner(region: Region) -> Iterator[Region]:
    """Yield the blocks within a block, at every depth."""
    for item in region.items:
        if isinstance(item, Region):
            yield item
            yield from inner(item)


def _names_below(region: Region) -> list[str]:
    start = len(region.path) + 1
    return [
        str(n.target)[start:]
        for n in region.nodes()
        if n.op in ("call_module", "get_attr") and str(n.target).startswith(f"{region.path}.")
    ]


def _all_nodes(root: Region) -> Any:
    return root.nodes()


def _read(node: fx.Node, where: Mapping[fx.Node, tuple[Region, ...]], same: Mapping[fx.Node, fx.Node]) -> None:
    here = where[node]
    for given in dict.fromkeys(same.get(n, n) for n in node.all_input_nodes):
        there = where.get(given, here[:1])
        for region in here[1:]:
            if region not in there and given not in region.inputs:
                region.inputs.append(given)
        for region in there[1:]:
            if region not in here and given not in region.outputs:
                region.outputs.append(given)
