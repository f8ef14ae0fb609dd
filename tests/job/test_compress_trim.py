"""The check after the trim: an exact trim passes, any other names the group or the images."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs.inputs import planned, tiny_data

from fxprune.errors import VerifyError
from fxprune.passes.csgd.tied import Deviation
from fxprune.passes.job import trim as compress_trim
from fxprune.passes.job.trim import check_equal, check_trim, trim
from fxprune.passes.rewrite.narrow import narrow
from fxprune.passes.verify import localise, rewrite


def test_an_exact_trim_passes():
    model, plan = planned()
    # float64 rounds at 1e-16, the network has three layers
    assert check_trim(trim(model, model, plan), plan, tiny_data()).max_rel_error < 1e-12


def test_clusters_that_did_not_become_equal_are_no_result():
    model, plan = planned()
    nets = trim(model, model, plan)
    check_equal(nets, Deviation(1e-3, 1e-4, "first.weight:0"), tiny_data())
    with pytest.raises(VerifyError, match=r"`first\.weight:0` deviates .* by 1\.2 .* \d+ of 24 test images"):
        check_equal(nets, Deviation(1.2, 0.5, "first.weight:0"), tiny_data())


@pytest.mark.parametrize(("group", "parameter"), [("first.weight", "second.weight"), ("second.weight", "head.weight")])
def test_a_trim_that_goes_wrong_names_the_group(monkeypatch, group, parameter):
    def wrong(model, plan, **options):
        """Forgets to sum the columns that read one group."""
        net = narrow(model, plan, **options)
        if group in plan.clusters:
            with torch.no_grad():
                net.get_parameter(parameter).mul_(0.5)
        return net

    model, plan = planned()
    monkeypatch.setattr(compress_trim, "narrow", wrong)
    monkeypatch.setattr(rewrite, "merged_by", lambda plan, model: (wrong(model, plan), {}))
    monkeypatch.setattr(localise, "narrow", wrong)
    with pytest.raises(VerifyError, match=f"worst group is `{group}`"):
        check_trim(trim(model, model, plan), plan, tiny_data())


def test_a_prediction_that_changes_in_float32_alone_is_not_overlooked():
    model, plan = planned()
    nets = trim(model, model, plan)
    with torch.no_grad():
        nets.narrow.head.weight.neg_()
        nets.narrow.head.bias.neg_()
    with pytest.raises(VerifyError, match=r"24 of 24 test images .* differ by \d\.?\d*e-1\d in float64"):
        check_trim(nets, plan, tiny_data())
