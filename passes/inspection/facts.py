"""Facts about groups of channels and frozen weights, with lines of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import fx

from fxprune.costs import cost_terms, samples_of
from fxprune.coupling import Axis, Coupling, Group
from fxprune.errors import OptionError
from fxprune.frozen import by_reason
from fxprune.passes.planning import units_of
from fxprune.pytorch.source import source_of
from fxprune.selection import select


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

    @property
    def half(self) -> int:
        """The width that is nearest to half of it."""
        return min(self.widths, key=lambda width: abs(2 * width - self.width))


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


def facts_of_groups(coupling: Coupling) -> tuple[GroupFacts, ...]:
    """Collect the facts about each group, in the order of the network."""
    ones = np.ones(len(coupling.groups) + 1)
    terms = (cost_terms(coupling, budget).by_group(coupling) for budget in ("params", "macs"))
    params, macs = (each.parts(ones) for each in terms)
    macs = macs / samples_of(coupling)
    reachable = {
        group.name: tuple(map(int, unit.widths[:, i]))
        for unit in (units_of(coupling, 1) if coupling.groups else ())
        for i, group in enumerate(unit.groups)
    }
    lines = source_lines(coupling)
    return tuple(
        _facts(group, reachable[group.name], round(params[i]), round(macs[i]), lines)
        for i, group in enumerate(coupling.groups.values())
    )


def facts_of_frozen(coupling: Coupling) -> tuple[FrozenFacts, ...]:
    """Add up what is frozen by reason, the most weights first."""
    return tuple(FrozenFacts(why, *found) for why, found in by_reason(coupling.frozen).items())


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


def source_lines(coupling: Coupling) -> dict[str, str]:
    """Map each layer, in the order of the graph, to the line of the model that uses it first."""
    found: dict[str, str] = {}
    for node in coupling.graph_module.graph.nodes:
        if node.op == "call_module":
            _set_line(found, str(node.target), node)
        elif node.op == "get_attr":
            for user in [*node.users][:1]:
                _set_line(found, _owner(str(node.target)), user)
    return found


def _set_line(found: dict[str, str], layer: str, node: fx.Node) -> None:
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


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter
