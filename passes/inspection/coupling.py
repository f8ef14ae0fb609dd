"""Say what can go from a network, what is frozen and why, and what half would save."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fxprune.common.table import table
from fxprune.common.text import count, fill, in_units, listed, percent, shortened
from fxprune.costs import Cost, cost_of_one, cost_terms, samples_of
from fxprune.coupling import Coupling, balance_in_words
from fxprune.equivalence import UNCHECKED
from fxprune.frozen import frozen_lines
from fxprune.passes.planning import widths_for

from .facts import FrozenFacts, GroupFacts, facts_of_frozen, facts_of_groups

# Lines of a table before the smallest groups are left out.
MOST_ROWS = 24


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
        texts = [fill(self.answer(), columns)]
        if self.groups:
            texts.append(self._table(columns, every))
        texts.append(self._frozen(columns))
        if self.half is not None:
            texts.append(fill(f"Half of the channels: {change(Cost(self.params, self.macs), self.half)}.", columns))
        if self.batch:
            texts.append(fill(f"Batch: {self.batch}", columns))
        if self.unchecked:
            texts.append(fill(f"Not compared with the model: {self.unchecked}", columns))
        return "\n\n".join(texts)

    def _table(self, columns: int, every: bool) -> str:
        shown, rest = list(self.groups), list[GroupFacts]()
        if not every and len(self.groups) > MOST_ROWS + 1:
            by_size = sorted(self.groups, key=lambda group: -group.params)
            largest, rest = {group.name for group in by_size[:MOST_ROWS]}, by_size[MOST_ROWS:]
            shown = [group for group in self.groups if group.name in largest]
        balance = balance_in_words(self.groups)
        balanced = ("balanced",) if any(group.balanced for group in shown) else ()
        header = ("group (its first layer)", "layers", "readers", "width", *balanced, "parameters", "MACs")
        rows = [
            (
                len(group.layers),
                len(group.readers),
                group.width,
                *(balance[group.name] for _ in balanced),
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
        notes = ""
        if sum(group.params for group in self.groups) > self.params:
            notes = "A weight between two groups counts for both, so that shares add up to more than 100 %."
        if not any(group.balanced for group in self.groups):
            notes += " No group is balanced: their clusters may have any sizes."
        if balanced:
            notes += " Balanced: clusters of one size"
            numbered = any("(" in balance[group.name] for group in shown)
            notes += ", which is common to groups with the same number." if numbered else "."
        total = f"{count(len(self.groups), 'group')}; in all {in_units(self.params)} parameters, {in_units(self.macs)} "
        return f"{text}\n\n{fill(f'{total}MACs for one sample. {notes}'.rstrip(), columns)}"

    def _frozen(self, columns: int) -> str:
        held = [each for each in self.frozen if each.weights]
        if not held:
            return "Frozen: nothing."
        lines = [f"Frozen: {in_units(self.frozen_params)} parameters ({percent(self.frozen_params / self.params)})."]
        facts = {each.why: (each.weights, each.axes, each.sources) for each in held}
        return "\n".join([*lines, *frozen_lines(facts, columns)])

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
        texts = [
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
            texts.append(f"{title} {count(len(layers), 'layer')}:\n{lines}\n{axes_text}" if layers else f"{title} none")
        return "\n\n".join(texts)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON value with the names of the attributes."""
        return {**asdict(self), "can_be_pruned": bool(self.groups)}


def inspect_coupling(coupling: Coupling, model: str) -> Inspection:
    """Collect what a coupling says about its network, from the cost of one sample."""
    totals = cost_of_one(coupling)
    half = None
    if coupling.groups:
        kept = widths_for(coupling, 0.5)
        shares = np.array([*(kept[group.name] / group.width for group in coupling.groups.values()), 1.0])
        terms = (cost_terms(coupling, budget).by_group(coupling) for budget in ("params", "macs"))
        params, macs = (each.value(shares) for each in terms)
        half = Cost(round(params), round(macs / samples_of(coupling)))
    return Inspection(
        model=model,
        params=totals.params,
        macs=totals.macs,
        prunable=coupling.share_prunable,
        frozen_params=totals.params - sum(coupling.prunable_weights.get(name, 0) for name in coupling.parameters),
        groups=facts_of_groups(coupling),
        frozen=facts_of_frozen(coupling),
        half=half,
        unchecked=coupling.graph_module.meta.get(UNCHECKED, ""),
        batch=f"{coupling.batch}, since {coupling.batch.why}" if coupling.batch.why else "",
    )


def change(before: Cost, after: Cost) -> str:
    """Say what a plan changes: parameters and MACs before and after, and the factor."""
    said = [
        f"{in_units(a)} -> {in_units(b)} {name} (x {b / a:.3f})"
        for name, a, b in (("parameters", before.params, after.params), ("MACs", before.macs, after.macs))
        if a
    ]
    return ", ".join(said)
