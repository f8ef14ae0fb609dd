"""Say what can go from a network, what is frozen and why, and what half would save."""

from __future__ import annotations

import functools
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import fx

from fxprune.common.source import source_of
from fxprune.common.table import in_units, shortened, table
from fxprune.costs import Cost, cost, cost_terms
from fxprune.coupling import Axis, Coupling, Group
from fxprune.equivalence import UNCHECKED
from fxprune.errors import OptionError
from fxprune.passes.planning import units_of, widths_for
from fxprune.select import select

# Lines of a table before the smallest groups are left out.
MOST_ROWS = 24


@dataclass(frozen=True)
class GroupFacts:
    """One group of channels.

    Attributes:
        name: of the group; its first tied parameter.
        width: channels.
        balanced: every cluster must have the same size.
        domain: groups of one domain (>= 0) keep clusters of one common size.
        widths: the widths that it can have, ascending.
        layers: layers that make or carry its channels -> line of the model's source, or ``-``.
        readers: layers that read them -> the same.
        params: parameters in rows or columns of the group; one between two groups counts for both.
        macs: multiply-accumulates for one sample, likewise.
        tied: axes whose rows merge, as ``name:dim``.
        read: axes whose columns are summed.
    """

    name: str
    width: int
    balanced: bool
    domain: int
    widths: tuple[int, ...]
    layers: Mapping[str, str]
    readers: Mapping[str, str]
    params: int
    macs: int
    tied: tuple[str, ...]
    read: tuple[str, ...]


@dataclass(frozen=True)
class FrozenFacts:
    """Channels that may not merge, for one reason.

    Attributes:
        why: the reason.
        weights: weights in them that no group can narrow.
        axes: of parameters, as ``name:dim``.
        sources: lines of the model's source.
    """

    why: str
    weights: int
    axes: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The answer to whether a network can be pruned; prints in at most ``columns`` columns.

    Attributes:
        model: its address.
        params: parameters of the network.
        macs: multiply-accumulates for one sample.
        prunable: share of the parameters in rows or columns of groups, 0 to 1.
        frozen_params: parameters in none; one that is frozen for two reasons counts once.
        groups: in the order of the network.
        frozen: the most weights first.
        half: the cost if every group keeps half of its channels, or the nearest share that it can have; None: there
            are no groups.
        unchecked: why the graph was not compared with the model; empty: it was.
        batch: the batch sizes that it takes, and the decision that binds it; empty: any.
    """

    model: str
    params: int
    macs: int
    prunable: float
    frozen_params: int
    groups: tuple[GroupFacts, ...]
    frozen: tuple[FrozenFacts, ...]
    half: Cost | None
    unchecked: str = field(default="", repr=False)
    batch: str = field(default="", repr=False)

    def answer(self) -> str:
        """Answer in a line whether the network can be pruned."""
        if not self.groups:
            size = in_units(self.params)
            return f"{self.model} cannot be pruned: no two of its channels may merge ({size} parameters)."
        return (
            f"{self.model} can be pruned: {percent(self.prunable)} of its {in_units(self.params)} parameters are in "
            f"{count(len(self.groups), 'group')} of channels."
        )

    def text(self, columns: int = 100, *, every: bool = False) -> str:
        """Format all of it.

        Args:
            columns: most characters in a line.
            every: show all groups, not only the largest ones.
        """
        parts = [fill(self.answer(), columns)]
        if self.groups:
            parts.append(self._table(columns, every))
        parts.append(self._frozen(columns))
        if self.half is not None:
            parts.append(fill(f"Half of the channels: {change(Cost(self.params, self.macs), self.half)}.", columns))
        if self.batch:
            parts.append(fill(f"Batch: {self.batch}", columns))
        if self.unchecked:
            parts.append(fill(f"Not compared with the model: {self.unchecked}", columns))
        return "\n\n".join(parts)

    def _table(self, columns: int, every: bool) -> str:
        shown, rest = list(self.groups), list[GroupFacts]()
        if not every and len(self.groups) > MOST_ROWS + 1:
            by_size = sorted(self.groups, key=lambda group: -group.params)
            largest, rest = {group.name for group in by_size[:MOST_ROWS]}, by_size[MOST_ROWS:]
            shown = [group for group in self.groups if group.name in largest]
        header = ("group (its first layer)", "layers", "readers", "width", "balanced", "parameters", "MACs")
        rows = [
            (
                len(group.layers),
                len(group.readers),
                group.width,
                self._balanced(group),
                percent(group.params / self.params),
                percent(group.macs / self.macs) if self.macs else "-",
            )
            for group in shown
        ]
        others = [max(len(str(cell)) for cell in column) for column in zip(header[1:], *rows, strict=True)]
        most = columns - sum(others) - 2 * len(others)
        named = [(shortened(group.name, most), *row) for group, row in zip(shown, rows, strict=True)]
        text = table(header, named, right="layers readers width parameters MACs")
        if rest:
            left = percent(sum(group.params for group in rest) / self.params)
            text += f"\n... and {count(len(rest), 'smaller group')} with {left}: --all shows every group"
        notes = "A weight between two groups counts for both, so that shares add up to more than 100 %."
        if any(group.balanced for group in shown):
            notes += " Balanced: clusters of one size"
            numbered = any("(" in self._balanced(group) for group in shown)
            notes += ", which is common to groups with the same number." if numbered else "."
        total = f"{count(len(self.groups), 'group')}; in all {in_units(self.params)} parameters, {in_units(self.macs)} "
        return f"{text}\n\n{fill(f'{total}MACs for one sample. {notes}', columns)}"

    def _balanced(self, group: GroupFacts) -> str:
        """Say whether the group is balanced, and number the sets of groups that share a size."""
        if not group.balanced:
            return "no"
        sizes = Counter(each.domain for each in self.groups if each.balanced)
        shared = [domain for domain, members in sizes.items() if members > 1]
        return f"yes ({shared.index(group.domain) + 1})" if group.domain in shared else "yes"

    def _frozen(self, columns: int) -> str:
        held = [each for each in self.frozen if each.weights]
        if not held:
            return "Frozen: nothing."
        lines = [f"Frozen: {in_units(self.frozen_params)} parameters ({percent(self.frozen_params / self.params)})."]
        for each in held:
            said = f"{each.weights:>11,}  {each.why}: {listed(each.axes)}"
            where = [source for source in each.sources if source != "-"]
            lines.append(fill(said + (f" ({listed(where)})" if where else ""), columns, 13))
        return "\n".join(lines)

    def group(self, name: str) -> GroupFacts:
        """Return the group of a name."""
        return next(group for group in self.groups if group.name == name)

    def group_text(self, name: str, columns: int = 100) -> str:
        """Format one group in full."""
        group = self.group(name)
        share, together = f"({percent(group.params / self.params)})", ""
        if group.balanced:
            others = [each.name for each in self.groups if each.domain == group.domain and each is not group]
            together = f" with clusters of one size{f', common with {listed(others, 99)}' if others else ''}"
        widths = f"1 to {group.width}" if not group.balanced else ", ".join(map(str, group.widths))
        parts = [
            f"group {group.name}: {group.width} channels",
            fill(f"It can have {widths} channels{together}.", columns),
            f"{in_units(group.params)} parameters {share} and {in_units(group.macs)} MACs are in its rows and columns.",
        ]
        for title, layers, axes in (
            ("made or carried by", group.layers, group.tied),
            ("read by", group.readers, group.read),
        ):
            rows = [(layer, source) for layer, source in layers.items()]
            lines = "\n".join(f"  {layer:<{max(map(len, layers), default=0)}}  {source}" for layer, source in rows)
            axes_text = textwrap.fill(", ".join(axes), columns, initial_indent="  axes: ", subsequent_indent="    ")
            parts.append(f"{title} {count(len(layers), 'layer')}:\n{lines}\n{axes_text}" if layers else f"{title} none")
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON value with the names of the attributes."""
        return {**asdict(self), "can_be_pruned": bool(self.groups)}


def inspect_coupling(coupling: Coupling, model: str) -> Inspection:
    """Collect what a coupling says about its network, from the cost of one sample."""
    totals = cost(coupling)
    ones = np.ones(len(coupling.groups) + 1)
    terms = {budget: cost_terms(coupling, budget).by_group(coupling) for budget in ("params", "macs")}
    params, macs = (terms[budget].parts(ones) for budget in ("params", "macs"))
    half = None
    if coupling.groups:
        kept = widths_for(coupling, 0.5)
        shares = np.array([*(kept[group.name] / group.width for group in coupling.groups.values()), 1.0])
        half = Cost(*(round(terms[budget].value(shares)) for budget in ("params", "macs")))
    reachable = {
        group.name: tuple(map(int, unit.widths[:, i]))
        for unit in (units_of(coupling, 1) if coupling.groups else ())
        for i, group in enumerate(unit.groups)
    }
    lines = sources(coupling)
    groups = tuple(
        _facts(group, reachable[group.name], round(params[i]), round(macs[i]), lines)
        for i, group in enumerate(coupling.groups.values())
    )
    unchecked = coupling.graph_module.meta.get(UNCHECKED, "")
    frozen = _by_reason(coupling)
    still = totals.params - sum(coupling.prunable_weights.get(name, 0) for name in coupling.parameters)
    prunable = coupling.share_prunable
    bound = f"{coupling.batch}, since {coupling.batch.why}" if coupling.batch.why else ""
    return Inspection(model, totals.params, totals.macs, prunable, still, groups, frozen, half, unchecked, bound)


def group_names(coupling: Coupling, pattern: str) -> list[str]:
    """Return the group of a name, or the groups that a pattern of ``--only`` matches.

    Raises:
        OptionError: there are none.
    """
    if pattern in coupling.groups:
        return [pattern]
    if not coupling.groups:
        raise OptionError(f"there is no group `{pattern}`: no two channels of this network may merge.")
    try:
        chosen = select(coupling, freeze=None, only=[pattern])
    except OptionError as error:
        raise OptionError(str(error).replace("`only` has", "`group` has")) from error
    return [name for name in coupling.groups if name in chosen]


def sources(coupling: Coupling) -> dict[str, str]:
    """Map each layer, in the order of the graph, to the line of the model that uses it first."""
    found: dict[str, str] = {}
    for node in coupling.graph_module.graph.nodes:
        if node.op == "call_module":
            _note(found, str(node.target), node)
        elif node.op == "get_attr":
            for user in [*node.users][:1]:
                _note(found, _owner(str(node.target)), user)
    return found


def _note(found: dict[str, str], layer: str, node: fx.Node) -> None:
    if found.get(layer, "-") == "-":
        found[layer] = source_of(node)


def _facts(group: Group, widths: tuple[int, ...], params: int, macs: int, lines: Mapping[str, str]) -> GroupFacts:
    def by_layer(axes: Iterable[Axis]) -> dict[str, str]:
        return {layer: lines.get(layer, "-") for layer in dict.fromkeys(_owner(axis.parameter) for axis in axes)}

    return GroupFacts(
        name=group.name,
        width=group.width,
        balanced=group.balanced,
        domain=group.domain,
        widths=widths,
        layers=by_layer(group.tied),
        readers=by_layer(group.readers),
        params=params,
        macs=macs,
        tied=tuple(map(str, group.tied)),
        read=tuple(map(str, group.readers)),
    )


def _by_reason(coupling: Coupling) -> tuple[FrozenFacts, ...]:
    together = defaultdict(list)
    for each in coupling.frozen:
        together[each.why].append(each)
    found = [
        FrozenFacts(
            why,
            sum(each.weights for each in members),
            tuple(axis for each in members for axis in each.what),
            tuple(dict.fromkeys(each.source for each in members)),
        )
        for why, members in together.items()
    ]
    return tuple(sorted(found, key=lambda each: -each.weights))


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter


def change(before: Cost, after: Cost) -> str:
    """Say what a plan changes: parameters and MACs before and after, and the factor."""
    said = [
        f"{in_units(a)} -> {in_units(b)} {name} (x {b / a:.3f})"
        for name, a, b in (("parameters", before.params, after.params), ("MACs", before.macs, after.macs))
        if a
    ]
    return ", ".join(said)


def percent(share: float) -> str:
    """Format a share as a percentage; one that is not all or nothing is neither 100 % nor 0 %."""
    if 0.0 < share < 0.001:
        return "< 0.1 %"
    shown = f"{100 * share:.1f}"
    return "> 99.9 %" if shown == "100.0" and share < 1.0 else f"{shown} %"


def count(number: int, noun: str) -> str:
    """Count a noun: 1 group, 2 groups."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """List the first names, and count the others."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def fill(text: str, columns: int, indent: int = 0) -> str:
    """Wrap a text at words; names are not broken, nor a number and its unit."""
    kept = re.sub(r"(?<=\d) (?=[kMGT%]\b|%)", "\N{NO-BREAK SPACE}", text)  # 11.7 M stays on one line
    wrap = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    return wrap(kept, columns, subsequent_indent=" " * indent).replace("\N{NO-BREAK SPACE}", " ")
