"""Select the groups that a plan may narrow, by name and by place in the network."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fxprune.common.choices import closest_names
from fxprune.common.text import listed
from fxprune.coupling import Coupling, Group
from fxprune.errors import OptionError
from fxprune.residual import internal_groups


def select(
    coupling: Coupling,
    *,
    only: Sequence[str] | None = None,
    freeze: Sequence[str] | None = None,
    internal_only: bool = False,
) -> frozenset[str]:
    """Select the groups that match ``only`` (None: all) and do not match ``freeze``.

    A pattern, with ``*``, ``?`` and ``[...]``, matches a group if it matches the name of the group, of one of its tied
    parameters, or of a layer of these: ``layer1.*`` matches all channels that layers in it make, including a residual
    stream. Groups under one normalisation keep their widths unless all of them are selected.

    Raises:
        OptionError: a pattern matches nothing, a group of ``only`` shares a normalisation with groups that are not
            selected, or no group is left.
    """
    selected = _matching(coupling, "only", only) if only is not None else frozenset(coupling.groups)
    if freeze is not None:
        selected -= _matching(coupling, "freeze", freeze)
    if internal_only:
        selected &= internal_groups(coupling)
    held = {name: others for name in sorted(selected) if (others := _held_by(coupling, name, selected))}
    if only is not None and held:
        name, others = next(iter(held.items()))
        raise OptionError(
            f"group `{name}` is under one normalisation with {listed(others)}, whose widths are to stay: "
            f"select them too, or leave it out."
        )
    selected -= set(held)
    if coupling.groups and not selected:
        raise OptionError(
            f"none of the {len(coupling.groups)} groups is left to narrow after {_asked(only, freeze, internal_only)}"
            + (
                f"; those that match share a normalisation with others: {listed(f'`{name}`' for name in held)}."
                if held
                else "."
            )
        )
    return selected


def _matching(coupling: Coupling, option: str, patterns: Sequence[str]) -> frozenset[str]:
    if isinstance(patterns, str) or not patterns:
        raise OptionError(f"`{option}` is a list of patterns, not {patterns!r}.")
    names = {group.name: _names(group) for group in coupling.groups.values()}
    found: set[str] = set()
    for pattern in patterns:
        met = {name for name, known in names.items() if any(fnmatchcase(each, pattern) for each in known)}
        if not met:
            every = list(dict.fromkeys(each for known in names.values() for each in known))
            near = closest_names(pattern, every)
            raise OptionError(f"`{option}` has `{pattern}`, which matches no group; the closest are {near}.")
        found |= met
    return frozenset(found)


def _names(group: Group) -> list[str]:
    """Return the names of a group: its own, those of its tied parameters, those of their layers."""
    parameters = [axis.parameter for axis in group.tied]
    layers = [name.rpartition(".")[0] for name in parameters]
    return list(dict.fromkeys([group.name, *parameters, *filter(None, layers)]))


def _held_by(coupling: Coupling, name: str, selected: frozenset[str]) -> list[str]:
    """Return the groups of the same domain that are not selected, as they are in Markdown."""
    domain = next(groups for groups in coupling.domains if any(group.name == name for group in groups))
    return [f"`{group.name}`" for group in domain if group.name not in selected]


def _asked(only: Sequence[str] | None, freeze: Sequence[str] | None, internal_only: bool) -> str:
    asked = {"only": list(only or []), "freeze": list(freeze or []), "internal_only": internal_only}
    return ", ".join(f"`{option}` {value}" for option, value in asked.items() if value)
