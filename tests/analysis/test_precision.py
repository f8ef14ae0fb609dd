"""Coupling too much is an error too: what is found is held against a search that knows nothing of rules.

The search merges by trial: in some axes row j becomes row i, in others column i becomes the sum of both, and row j is
then noise. If the output stays, the two channels could have merged there.
"""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest
import torch
from samples import SAMPLES, Net, conv, linear

import fxprune
from benchmarks.merge_trial import (
    READER,
    TIED,
    Trial,
    can_merge,
    found_to_merge,
    pair_of,
    parts_that_merge_alone,
    roles_of,
)
from fxprune.analysis.rules import RULES
from fxprune.analysis.rules.registry import Entry
from fxprune.models_zoo.registry import create_model

ALIGNED = [
    "relu", "residual", "squeeze and excitation", "one gate for all channels", "layer scale", "choice", "masked",
    "in place on some channels", "constant per channel", "depthwise", "batch norm without affine",
    "slices treated differently", "slices pooled differently",
    "two inputs", "several outputs", "channels as length",
    "cumulative sum over channels", "one layer twice in a row",
]  # fmt: skip

# What could merge and is not found, which is sound but narrower than need be: why, and a merge that would be right,
# the two positions on each axis (dim 0: rows, dim 1: columns).
CAUTIOUS = {
    "chunk of uneven parts": ("pieces put together again", "a.weight:0 0 6, a.bias:0 0 6, b.weight:1 0 3"),
    "weights put together": ("two weights in one count as computed", "a.weight:0 0 1, a.bias:0 0 1, w:1 0 1, v:1 0 1"),
}


@pytest.mark.parametrize("name", ALIGNED)
def test_two_channels_are_found_to_merge_if_and_only_if_they_can(name):
    sample = SAMPLES[name]
    coupling, trial = fxprune.couple(sample.net, sample.inputs, check=False), Trial(sample.net, sample.inputs)
    rows = [axis for axis in trial.axes(8) if axis[1] == 0]
    wrong = []
    for axis, pair in itertools.product(rows, ((0, 1), (1, 5), (4, 5))):
        roles = found_to_merge(coupling, axis, *pair)
        if bool(roles) != can_merge(trial, axis, *pair, roles):
            wrong.append((axis, pair))
    assert not wrong, coupling


@pytest.mark.parametrize("name", CAUTIOUS)
def test_what_is_cautious_is_known(name):
    sample, pair = SAMPLES[name], {}
    for text in CAUTIOUS[name][1].split(", "):
        axis, i, j = text.split()
        pair[axis.partition(":")[0], int(axis[-1])] = ([int(i)], [int(j)])
    roles = {axis: READER if axis[1] else TIED for axis in pair}
    assert Trial(sample.net, sample.inputs).merges(roles, pair)
    (i,), (j,) = pair["a.weight", 0]
    assert not found_to_merge(fxprune.couple(sample.net, sample.inputs, check=False), ("a.weight", 0), i, j)


def alone(coupling, trial):
    """(group, axes) for every proper part of a group's axes that merges without the rest."""
    for group in coupling.groups.values():
        assert trial.merges(roles_of(group), pair_of(group)), group.name
        for some in parts_that_merge_alone(trial, group):
            yield group.name, some


WHOLE = [
    "relu", "residual", "residual with a scale", "squeeze and excitation", "layer scale", "two scales multiplied first",
    "interpolation", "batch norm", "depthwise", "depth multiplier", "grouped", "transposed", "depthwise transposed",
    "functional", "cat",
    "dense", "cat with itself", "stack", "padded shortcut", "one layer twice in a row", "one weight in two layers",
    "two inputs joined", "linear after pooling to 2x2", "prelu", "pixel unshuffle", "line", "einsum with a parameter",
]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_no_part_of_a_group_merges_alone(name):
    sample = SAMPLES[name]
    coupling, trial = fxprune.couple(sample.net, sample.inputs, check=False), Trial(sample.net, sample.inputs)
    assert not any(group.balanced for group in coupling.groups.values())
    assert list(alone(coupling, trial)) == []


def test_a_rule_that_couples_too_much_is_seen(monkeypatch):
    """The tests above can fail: a `relu` that unites all activations that it sees is caught by both."""
    entry = RULES[torch.ops.aten.convolution.default]
    seen = []

    def united(call):
        axes = entry.rule(call)
        if axes[1] is not None and len(axes[1]) == 8:
            seen.append(call.unify(axes[1], seen[-1] if seen else None))
        return axes

    monkeypatch.setitem(RULES, torch.ops.aten.convolution.default, Entry(united, reads_weights=(1,)))
    net = Net(
        lambda s, x: s.b(s.a(x)).mean((2, 3)) + s.d(s.c(x)).mean((2, 3)),
        a=conv(3, 8),
        b=conv(8, 4),
        c=conv(3, 8),
        d=conv(8, 4),
    )
    coupling, trial = fxprune.couple(net, torch.zeros(2, 3, 4, 4)), Trial(net, (torch.zeros(2, 3, 4, 4),))
    found = {frozenset(name for name, _ in some) for _, some in alone(coupling, trial)}
    assert frozenset({"a.weight", "a.bias", "b.weight"}) in found


def test_the_search_sees_a_merge_that_is_not_one():
    net = Net(lambda s, x: s.head(s.a(x)), a=linear(3, 8), head=linear(8, 4))
    trial = Trial(net, (torch.zeros(2, 3),))
    pair = dict.fromkeys([("a.weight", 0), ("a.bias", 0), ("head.weight", 1)], ([0], [1]))
    roles = {("a.weight", 0): TIED, ("a.bias", 0): TIED, ("head.weight", 1): READER}
    assert trial.merges(roles, pair)
    for axis in roles:
        assert not trial.merges({key: role for key, role in roles.items() if key != axis}, pair)
    assert not trial.merges({**roles, ("head.weight", 1): TIED}, pair)


# Network, image size, width -> number of groups of that width; counted by hand from the architecture.
NETWORKS = {
    "resnet20": (32, {16: 4, 32: 4, 64: 4}),  # per stage the stream, and the inside of three blocks
    "vgg16_cifar": (32, {64: 2, 128: 2, 256: 3, 512: 6}),  # every convolution by itself
    "densenet40": (32, {16: 1, 12: 36, 160: 1, 304: 1}),  # stem, layers, two transitions
    "resnet18": (64, {64: 3, 128: 3, 256: 3, 512: 3}),
    "mobilenetv2_100": (64, {16: 1, 24: 1, 32: 2, 64: 1, 96: 2, 144: 2, 160: 1, 192: 3, 320: 1, 384: 4, 576: 3,
                             960: 3, 1280: 1}),  # per block its end, where no shortcut joins it, and its inside
    "convnext_atto": (64, {40: 1, 80: 1, 160: 3, 320: 3, 640: 6, 1280: 2}),  # streams, and four times as wide inside
    "vit_tiny_patch16_224": (224, {192: 1, 64: 12, 768: 12}),  # stream; per block the head dim, and inside the MLP
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_widths_of_networks_are_those_of_their_architecture(name):
    size, widths = NETWORKS[name]
    coupling = fxprune.couple(create_model(name, num_classes=10), torch.zeros(2, 3, size, size))
    assert collections.Counter(group.width for group in coupling.groups.values()) == widths
    assert coupling.share_prunable > 0.999
    assert np.sum([group.width for group in coupling.groups.values()]) == coupling.channels
