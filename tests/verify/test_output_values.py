"""Outputs of any structure become named tensors; two tensors differ by one number."""

from __future__ import annotations

import collections
import dataclasses
import math

import pytest
import torch

from fxprune.passes.verify.outputs import named_outputs, relative_error

A, B = torch.ones(2), torch.zeros(3)


@dataclasses.dataclass
class Detections:
    boxes: torch.Tensor
    scores: list
    image: str = "cat.png"


class ModelOutput(collections.OrderedDict):
    """As transformers has it: a mapping of a class of its own."""


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (A, ["output"]),
        ((A, B), ["output[0]", "output[1]"]),
        ([A, (B, None)], ["output[0]", "output[1][0]"]),
        ({"logits": A, "aux": [B]}, ["output['logits']", "output['aux'][0]"]),
        (Pair(A, B), ["output.left", "output.right"]),
        (Detections(A, [B]), ["output['boxes']", "output['scores'][0]"]),
        (ModelOutput(logits=A), ["output['logits']"]),
        ((A, 3, "text"), ["output[0]", "output[1]"]),
        (None, []),
    ],
)
def test_every_tensor_has_a_path(value, paths):
    assert list(named_outputs(value)) == paths


@pytest.mark.parametrize(
    ("reference", "candidate", "error"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [2.0, -4.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-30], math.inf),
        ([1.0, math.inf], [1.0, math.inf], 0.0),
        ([2.0, math.inf], [1.0, math.inf], 0.5),
        ([1.0, math.inf], [1.0, -math.inf], math.inf),
        ([1.0, 2.0], [1.0, math.inf], math.inf),
        ([1.0, math.nan], [1.0, math.nan], math.inf),
        ([1.0, 2.0], [1.0, math.nan], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([], [], 0.0),
        ([4, 2], [4, 1], 0.25),
        ([True, False], [True, True], 1.0),
        ([3.0 + 4.0j], [3.0 + 3.0j], 0.2),
    ],
)
def test_relative_error(reference, candidate, error):
    assert relative_error(torch.tensor(reference), torch.tensor(candidate)) == error


def test_the_difference_of_two_float32_is_not_rounded():
    one = torch.tensor([1.0])
    assert relative_error(one, one.double() + 1e-12) == pytest.approx(1e-12, rel=1e-3)
