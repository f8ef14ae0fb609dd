"""Rewrite functional layers, whose numbers of groups and normalised shapes count channels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import fx

from .places import length_in
from .site import Site


def convolved(site: Site) -> fx.Node | None:
    """Functional convolution: the number of groups that are kept."""
    on_x, weight, groups = site.shape_of(0), site.shape_of(1), site.parameter(6, "groups", 1)
    channels = on_x.axes[1]
    if channels is None or (isinstance(groups, int) and groups == 1):
        return None
    after = int(site.kept(channels).sum()) // length_in(site, weight, 1)
    # If batch and channels share an axis, each image has groups of its own, and the model computes their number.
    before = len(channels) // weight.sizes[1]
    return site.copy(*_with_groups(site, groups, Fraction(after, before)))


def convolved_back(site: Site) -> fx.Node | None:
    """Functional transposed convolution: fewer groups where complete groups merge."""
    weight, groups = site.shape_of(1), site.parameter(6, "groups", 1)
    channels, before = site.shape_of(0).axes[1], site.value.sizes[1] // weight.sizes[1]
    if channels is None:
        return None
    kept = site.kept(channels).reshape(before, -1)
    if not (kept.all(1) | ~kept.any(1)).all():
        return None
    return site.copy(*_with_groups(site, groups, Fraction(int(kept.any(1).sum()), before)))


def _with_groups(site: Site, groups: Any, share: Fraction) -> tuple[tuple[Any, ...], dict[str, Any]]:
    new = int(groups * share) if isinstance(groups, int) else site.share_of(groups, share)
    if len(site.args) > 6:
        return (*site.args[:6], new, *site.args[7:]), site.kwargs
    return site.args, {**site.kwargs, "groups": new}


def normalised(site: Site) -> fx.Node | None:
    """Functional layer norm: the normalised shape counts the kept channels."""
    on_x = site.shape_of(0)
    shape = list(site.parameter(1, "normalized_shape"))
    lead = len(on_x.sizes) - len(shape)
    for at in range(len(shape)):
        codes = on_x.axes[lead + at]
        if codes is not None:
            site.guard_length(lead + at, on_x)
            shape[at] = int(site.kept(codes).sum())
    kwargs = {key: value for key, value in site.kwargs.items() if key != "normalized_shape"}
    return site.copy((site.args[0], tuple(shape), *site.args[2:]), kwargs)


def grouped(site: Site) -> fx.Node | None:
    """Functional group norm with one channel per group: as many groups as kept channels."""
    codes, groups = site.shape_of(0).axes[1], site.parameter(1, "num_groups")
    if codes is None or groups != len(codes):
        return None
    kwargs = {key: value for key, value in site.kwargs.items() if key != "num_groups"}
    return site.copy((site.args[0], int(site.kept(codes).sum()), *site.args[2:]), kwargs)
