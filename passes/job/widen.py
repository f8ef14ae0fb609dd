"""Build a network wider than its final widths, and find the widths that narrow it to these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fxprune.analysis import couple
from fxprune.coupling import Coupling
from fxprune.errors import FxpruneError, ModelError, PlanError
from fxprune.models_zoo import Network, build
from fxprune.passes.planning import plan
from fxprune.plans import Plan

# Arguments by which builders scale widths, and their values; the first that widens a network is used.
ARGUMENTS: Mapping[str, Callable[[float], float]] = {
    "width": float,  # ours
    "width_mult": float,  # torchvision's mobile networks
    "width_per_group": lambda factor: round(64 * factor),  # torchvision's bottleneck ResNets, the inner layers
    "base_width": lambda factor: round(64 * factor),  # timm's
}


def build_widened(name: str, factor: float, **arguments: Any) -> Network:
    """Build a network ``factor`` times as wide, as far as its builder can scale its widths.

    Args:
        name: a name for ``fxprune.models_zoo.registry.create_model``.
        factor: above 1; the builder rounds widths.
        **arguments: of :func:`fxprune.models_zoo.build.build`.

    Raises:
        ModelError: the name is unknown, or its builder has none of the ``ARGUMENTS``.
        PlanError: the wider network cannot be narrowed to the widths of the network, for example since a normalisation
            needs clusters of one size.
    """
    plain = build(name, **arguments)
    reasons = []
    for argument, value in ARGUMENTS.items():
        try:
            wide = build(name, **arguments | {argument: value(factor)})
        except ModelError as error:
            reasons.append(error)
            continue
        coupling, target = couple(wide.model, wide.example), couple(plain.model, plain.example)
        if any(
            coupling.groups[name].width > width for name, width in _widths(target).items() if name in coupling.groups
        ):
            widths_back(coupling, target)
            return wide
    raise ModelError(
        f"`{name}` cannot be built {factor:g} times as wide: its builder takes none of {', '.join(ARGUMENTS)}, or they "
        "change no width. Build the wider network in Python, and give the widths to come back to as `widths`."
    ) from (reasons[-1] if reasons else None)


def widths_back(wide: Coupling, plain: Coupling) -> dict[str, int]:
    """Find the widths by which every tensor of ``wide`` gets its shape in ``plain``.

    Raises:
        PlanError: groups differ, a group cannot have the width, or a tensor would have another shape.
    """
    widths = _widths(plain)
    missing = [name for name in {**wide.groups, **widths} if name not in wide.groups or name not in widths]
    if missing:
        raise PlanError(
            f"the wider network has other groups: {len(missing)} are in one of the two alone, first `{missing[0]}`. It "
            "cannot be brought back to the widths of the network itself."
        )
    try:
        shapes = _shapes(plan(wide, widths=widths, method="even"))
    except FxpruneError as error:
        raise PlanError(f"the wider network cannot be brought back to the network's own widths: {error}") from error
    differ = [name for name in plain.shapes if shapes.get(name) != plain.shapes[name]]
    if differ or len(shapes) != len(plain.shapes):
        first = differ[0] if differ else next(iter(shapes.keys() - plain.shapes.keys()))
        raise PlanError(
            f"the wider network cannot be brought back to the network's own widths: `{first}` would be "
            f"{shapes.get(first)}, not {plain.shapes.get(first)}; what widens it is frozen."
        )
    return widths


def _widths(coupling: Coupling) -> dict[str, int]:
    return {name: group.width for name, group in coupling.groups.items()}


def _shapes(back: Plan) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the narrow network."""
    shapes = {name: list(shape) for name, shape in back.coupling.shapes.items()}
    for cut in back.partitions():
        first = back.coupling.shared.get(cut.parameter, cut.parameter)
        for name in shapes:
            if back.coupling.shared.get(name, name) == first:
                shapes[name][cut.dim] = len(cut.kept)
    return {name: tuple(shape) for name, shape in shapes.items()}
