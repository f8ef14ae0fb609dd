"""Weights that are not numbers are refused where they would be clustered, averaged or merged; the tensor is named."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import planned

import fxprune
from fxprune.errors import ModelError

NUMBERS = {"nan": (float("nan"), "1 NaN, 0 infinite"), "inf": (float("inf"), "0 NaN, 1 infinite")}


# Running statistics take no part in clustering.
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *((verb, name) for verb in ("plan", "snap", "narrow") for name in ("first.weight", "head.weight")),
        *((verb, "norm.running_mean") for verb in ("snap", "narrow")),
    ],
)
def test_the_tensor_is_named(verb, name, number):
    value, says = NUMBERS[number]
    model, plan = planned()
    coupling = fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))
    model.state_dict()[name].view(-1)[0] = value
    call = {
        "plan": lambda: fxprune.plan(coupling, keep=0.5),
        "snap": lambda: fxprune.snap(model, plan),
        "narrow": lambda: fxprune.narrow(model, plan),
    }[verb]
    with pytest.raises(ModelError, match=rf"`{name}` has 1 of \d+ numbers that are not finite \({says}\)"):
        call()


@pytest.mark.parametrize("verb", [fxprune.snap, fxprune.narrow, fxprune.fold])
def test_a_variance_below_zero_is_no_number_either(verb):
    model, plan = planned()
    model.norm.running_var[0] = -0.5
    with pytest.raises(ModelError, match=r"`norm\.running_var` has 1 of 8 variances below 0, whose root is a NaN"):
        verb(model, plan)


def test_a_network_on_the_meta_device_has_no_numbers_to_refuse():
    model, _ = planned()
    model = model.to("meta")
    coupling = fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))
    assert fxprune.plan(coupling, keep=0.5, method="even").clusters
