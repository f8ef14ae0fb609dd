"""A block is a run of nodes: all its layers, and the operations around them.

A graph does not say which function called which operation; the names of its layers do. A block reaches from the first
to the last of its layers. Operations between two blocks join one of them where that leaves less to hand over: the
addition of a residual joins the block that it closes, and the mean of a squeeze joins its gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxprune.capture import EvalOnly, ModeSwitch
from fxprune.passes.lowering import layer_name
from fxprune.pytorch.modes import is_mode

from .repeats import runs_of, twins

Ending = tuple[Any, ...]

# More values than this make a function hard to read: then a block is written where it is called.
MOST_INPUTS, MOST_OUTPUTS = 8, 3


@dataclass(eq=False)
class Region:
    """A block: its name, what it does in order, and, of a later call, the first one."""

    path: str
    items: list[fx.Node | Region]
    inputs: list[fx.Node] = field(default_factory=list)
    outputs: list[fx.Node] = field(default_factory=list)
    first: Region | None = None

    def nodes(self) -> Iterator[fx.Node]:
        """Yield all nodes in order."""
        for item in self.items:
            yield from item.nodes() if isinstance(item, Region) else (item,)

    def again(self, twin: Mapping[fx.Node, fx.Node]) -> Region:
        """Return another call, whose nodes are the twins of these."""
        items = [item.again(twin) if isinstance(item, Region) else twin[item] for item in self.items]
        return Region(self.path, items, first=self)


@dataclass
class _Span:
    """A block among the nodes of its parent: ``nodes[first:last + 1]``."""

    path: str
    first: int
    last: int
    repeated: bool = False
    trailing: int = 0
    leading: int = 0

    @property
    def series(self) -> str:
        """The name without its number; blocks of a series are much alike."""
        return self.path.rstrip("0123456789")


class Regions:
    """The blocks of a graph.

    Args:
        graph: of the network.
        modules: by name.
        written_out: how often blocks could not be called as one: 1 if they may be in several calls, 2 if not at all.
        usual: what blocks usually end with, by the names of their last layers; see :attr:`ends`.
    """

    def __init__(
        self,
        graph: fx.Graph,
        modules: Mapping[str, nn.Module],
        written_out: Counter[str],
        usual: Mapping[Ending, Counter[Ending]],
    ) -> None:
        self.modules, self.written_out, self.usual = modules, written_out, usual
        self.ends: dict[Ending, Counter[Ending]] = {}
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        body = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
        self.root = self._region("", body)

    def home(self, node: fx.Node) -> str | None:
        """Return the module whose function reads a layer or tensor; None: it may be any."""
        if node.op not in ("call_module", "get_attr"):
            return None
        target = placed(str(node.target), self.modules) if node.op == "call_module" else str(node.target)
        if node.op == "call_module" and isinstance(self.modules[str(node.target)], ModeSwitch | EvalOnly):
            return "" if isinstance(self.modules[target], EvalOnly) else None
        parent = target.rpartition(".")[0]
        return parent.rpartition(".")[0] if is_layer(self.modules.get(parent)) and parent else parent

    def _region(self, path: str, nodes: list[fx.Node]) -> Region:
        spans = self._spans(path, nodes)
        self._widen(nodes, spans)
        items: list[fx.Node | Region] = []
        calls: dict[str, tuple[Region, list[fx.Node]]] = {}
        here = 0
        for span in spans:
            first, last = span.first - span.leading, span.last + span.trailing
            items += nodes[here:first]
            inside = nodes[first : last + 1]
            # A tensor of another module comes in from outside.
            outside = [n for n in inside if n.op == "get_attr" and not _under(self.home(n), span.path)]
            items += outside
            inside = [n for n in inside if n not in outside]
            before = calls.get(span.path)
            twin = twins(before[1], inside) if before else None
            block = before[0].again(twin) if before and twin else self._region(span.path, inside)
            calls.setdefault(span.path, (block, inside))
            items.append(block)
            here = last + 1
        return Region(path, [*items, *nodes[here:]])

    def _spans(self, path: str, nodes: Sequence[fx.Node]) -> list[_Span]:
        """Find the blocks below a path, each in one run of nodes."""
        homes = [self.home(node) for node in nodes]
        names = list(
            dict.fromkeys(
                _child(path, home) for home in homes if home is not None and home != path and _under(home, path)
            )
        )
        spans: list[_Span] = []
        while names:
            name = names.pop(0)
            positions = [i for i, home in enumerate(homes) if _under(home, name)]
            if not positions:
                continue
            whole = (positions[0], positions[-1])
            runs = [whole] if not self.written_out[name] and self._is_block(name, nodes, homes, whole) else []
            if not runs and self.written_out[name] < 2:
                runs = runs_of(nodes, positions)
            if runs and all(self._is_block(name, nodes, homes, run) for run in runs):
                spans += [_Span(name, *run, repeated=len(runs) > 1) for run in runs]
            else:
                names += dict.fromkeys(_child(name, homes[i]) for i in positions if homes[i] != name)
        return sorted(spans, key=lambda span: span.first)

    def _is_block(self, name: str, nodes: Sequence[fx.Node], homes: Sequence[str | None], run: tuple[int, int]) -> bool:
        """Tell whether a run has layers of one block only, and leaves the modes that it enters."""
        inside, here = nodes[run[0] : run[1] + 1], homes[run[0] : run[1] + 1]
        strangers = [
            n for n, home in zip(inside, here) if home is not None and not _under(home, name) and n.op != "get_attr"
        ]
        calls = any(n.op == "call_module" for n in inside)
        return not strangers and not sum(map(is_mode, inside)) % 2 and (calls or self._is_read_once(inside))

    def _is_read_once(self, inside: Sequence[fx.Node]) -> bool:
        """Tell whether nodes only read a tensor for one operation, such as a layer scale."""
        return len(inside) == 1 and len(inside[0].users) == 1 and not is_mode(next(iter(inside[0].users)))

    def _widen(self, nodes: Sequence[fx.Node], spans: list[_Span]) -> None:
        """Let the operations between blocks join them."""
        homes = [self.home(node) for node in nodes]
        for index, span in enumerate(spans):
            gap = 0
            limit = spans[index + 1].first if index + 1 < len(spans) else len(nodes)
            while (
                span.last + gap + 1 < limit
                and homes[span.last + gap + 1] is None
                and not is_mode(nodes[span.last + gap + 1])
            ):
                gap += 1
            follows = span.last + gap + 1 == limit and limit < len(nodes) and spans[index + 1].series == span.series
            span.trailing = self._best(nodes, span, gap, trailing=True, longest=follows)
        _end_alike(nodes, [span for span in spans if span.repeated])
        self._as_most(nodes, spans, homes)
        for span in (each for each in spans if not each.repeated):
            end = _targets(nodes[span.last + 1 : span.last + span.trailing + 1])
            self.ends.setdefault(self._last_layers(nodes, span), Counter())[end] += 1
        for index, span in enumerate(spans):
            if span.repeated:
                continue
            before = spans[index - 1] if index else None
            limit = before.last + before.trailing if before else -1
            gap = 0
            while (
                span.first - gap - 1 > limit
                and homes[span.first - gap - 1] is None
                and not is_mode(nodes[span.first - gap - 1])
            ):
                gap += 1
            follows = before is not None and span.first - gap - 1 == limit and before.series == span.series
            span.leading = self._best(nodes, span, gap, trailing=False, longest=follows)

    def _best(self, nodes: Sequence[fx.Node], span: _Span, gap: int, *, trailing: bool, longest: bool) -> int:
        """Return how many operations of a gap to take, so that the fewest values go in and out."""
        edge = nodes[span.last if trailing else span.first]
        owner, _, name = str(edge.target).rpartition(".")
        if edge.op == "call_module" and name.isdecimal() and owner == span.path:
            return 0  # a list of layers holds nothing else
        costs: dict[int, tuple[int, int]] = {}
        core = nodes[span.first : span.last + span.trailing + 1]
        bare = not any(n.op == "call_module" for n in core)
        for count in range(gap + 1):
            first = span.first - (0 if trailing else count)
            last = span.last + (count if trailing else span.trailing)
            run = nodes[first : last + 1]
            if count:
                added = run[-1] if trailing else run[0]
                inside = set(run)
                if not (
                    inside & set(added.all_input_nodes) if trailing else set(added.users) <= inside and added.users
                ):
                    break
            ins, outs, passing = crossing(run)
            if bare and count == 0 and trailing:
                continue
            costs[count] = (max(len(outs), 1), len(ins) + passing)
        if not costs:
            return 0
        best = min(costs.values())
        counts = [count for count, cost in costs.items() if cost == best]
        if trailing and not longest:
            known = self.usual.get(self._last_layers(nodes, span), Counter[Ending]())
            ends = {_targets(nodes[span.last + 1 : span.last + count + 1]): count for count in counts}
            return max(ends.items(), key=lambda item: (known[item[0]], -item[1]))[1]
        return max(counts) if longest else min(counts)

    def _last_layers(self, nodes: Sequence[fx.Node], span: _Span) -> Ending:
        """Return the names of the layers around the last layer of a block."""
        home = self.home(nodes[span.last])
        run = nodes[span.first : span.last + 1]
        return tuple(str(n.target).rpartition(".")[2] for n in run if home is not None and self.home(n) == home)

    def _as_most(self, nodes: Sequence[fx.Node], spans: list[_Span], homes: list[str | None]) -> None:
        """Let the last block of a series end as the others do, where the same operations follow it."""
        for series in dict.fromkeys(span.series for span in spans if not span.repeated):
            members = [span for span in spans if span.series == series and not span.repeated]
            ends = Counter(_targets(nodes[s.last + 1 : s.last + s.trailing + 1]) for s in members[:-1])
            if not ends:
                continue
            usual = ends.most_common(1)[0][0]
            last = members[-1]
            after = nodes[last.last + 1 : last.last + 1 + len(usual)]
            free = all(home is None for home in homes[last.last + 1 : last.last + 1 + len(usual)])
            limit = min((s.first for s in spans if s.first > last.last), default=len(nodes))
            if free and _targets(after) == usual and last.last + len(usual) < limit:
                outs = crossing(nodes[last.first : last.last + len(usual) + 1])[1]
                if len(outs) == 1:
                    last.trailing = len(usual)


def _end_alike(nodes: Sequence[fx.Node], spans: Sequence[_Span]) -> None:
    """Let all calls of a block end with as many operations as are the same in each."""
    for path in dict.fromkeys(span.path for span in spans):
        calls = [span for span in spans if span.path == path]
        for count in range(min(span.trailing for span in calls), -1, -1):
            first, *others = (nodes[span.first : span.last + count + 1] for span in calls)
            if not count or all(twins(first, other) is not None for other in others):
                for span in calls:
                    span.trailing = count
                break


def is_layer(module: nn.Module | None) -> bool:
    """Tell whether a module is written as a layer of PyTorch: it is not a container of tensors."""
    return module is not None and (layer_name(module) or "").startswith("torch.nn.")


def placed(target: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the name of a layer in the file: inside of another layer none has a place."""
    parent, _, last = target.rpartition(".")
    return f"{parent}_{last}" if parent and is_layer(modules.get(parent)) else target


def crossing(run: Sequence[fx.Node]) -> tuple[list[fx.Node], list[fx.Node], int]:
    """Return what goes into a run of nodes and out of it, and how many inputs live on."""
    inside = set(run)
    ins = list(dict.fromkeys(arg for n in run for arg in n.all_input_nodes if arg not in inside))
    outs = [n for n in run if any(user not in inside for user in n.users)]
    last = run[-1]
    passing = sum(any(user not in inside and user > last for user in arg.users) for arg in ins)
    return ins, outs, passing


def _targets(nodes: Sequence[fx.Node]) -> tuple[Any, ...]:
    return tuple(n.target for n in nodes)


def _under(home: str | None, path: str) -> bool:
    return home is not None and (not path or home == path or home.startswith(f"{path}."))


def _child(path: str, home: str | None) -> str:
    """Return the name of the module one level below ``path`` on the way to ``home``."""
    assert home is not None
    rest = home[len(path) + 1 :] if path else home
    first = rest.partition(".")[0]
    return f"{path}.{first}" if path else first
