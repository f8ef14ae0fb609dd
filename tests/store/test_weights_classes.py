"""Weights of a network for other classes or channels: what is left out, and what is another network."""

from __future__ import annotations

import copy

import pytest
from helpers.couplings.cases import filled, same_state
from torch import nn

from fxprune.errors import CheckpointError
from fxprune.passes.store import left_out_line, load_weights, save_weights


class Classes(nn.Module):
    """A network with two classifiers, and a width inside that may be the number of classes."""

    def __init__(self, classes, width=3, bias=True):
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)
        self.head, self.aux = nn.Linear(width, classes, bias=bias), nn.Conv2d(width, classes, 1)


HEADS = ("head.weight", "head.bias", "aux.weight", "aux.bias")


def test_a_classifier_for_other_classes_is_left_out(tmp_path):
    theirs, ours = filled(Classes(5)), filled(Classes(3), 1)
    before = copy.deepcopy(ours)
    save_weights(theirs, tmp_path / "w.safetensors")
    assert load_weights(ours, tmp_path / "w.safetensors", num_classes=3) == HEADS
    assert ours.body.weight.equal(theirs.body.weight) and ours.norm.running_var.equal(theirs.norm.running_var)
    assert all(ours.state_dict()[name].equal(before.state_dict()[name]) for name in HEADS)
    assert left_out_line(HEADS[:2], "w.pt", 3).startswith("w.pt tells another number of classes apart than 3: left out")


def test_a_classifier_for_as_many_classes_is_loaded(tmp_path):
    theirs, ours = filled(Classes(3)), filled(Classes(3), 1)
    save_weights(theirs, tmp_path / "w.safetensors")
    assert load_weights(ours, tmp_path / "w.safetensors", num_classes=3) == ()
    assert same_state(ours, theirs)


OTHERS = {
    "not asked for": (Classes(5), None, "as many classes: `num_classes=5` "),
    "asked for another number": (Classes(5), 4, "saved from"),
    "another width inside": (Classes(3, width=5), 3, "saved from"),
    "both": (Classes(5, width=5), None, "saved from"),
    "a tensor is missing": (Classes(5, bias=False), 3, "saved from"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_that_differs_is_another_network(name, tmp_path):
    theirs, num_classes, advice = OTHERS[name]
    ours = filled(Classes(3))
    before = copy.deepcopy(ours)
    save_weights(theirs, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=f"another network.*{advice}"):
        load_weights(ours, tmp_path / "w.safetensors", num_classes=num_classes)
    assert same_state(ours, before)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_for_other_channels_are_told_the_option(channels, classes, tmp_path):
    def tower(channels, classes):
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4, classes))

    save_weights(tower(channels, classes), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=rf"give `in_chans={channels}` \(--in-chans {channels}\)"):
        load_weights(tower(4 - channels, 3), tmp_path / "w.safetensors", num_classes=3)
    found = load_weights(tower(channels, 3), tmp_path / "w.safetensors", num_classes=3)
    assert len(found) == (2 if classes == 5 else 0)
