"""Running statistics that are behind are estimated anew, and a snap that changes the network is an error."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers.jobs.inputs import planned, tiny_data
from torch import nn

import fxprune
from fxprune.errors import ModelError, VerifyError
from fxprune.passes.job.trim import check_snap, settle_statistics, trim
from fxprune.passes.merge.settle import settle, unsettled
from fxprune.passes.merge.snap import snap


def behind():
    """A network whose filters are equal within clusters, with running statistics of other filters."""
    model, plan = planned()
    equal = copy.deepcopy(snap(model, plan))
    with torch.no_grad():
        equal.norm.running_mean += torch.randn(8)
        equal.norm.running_var *= torch.rand(8) + 0.5
    return equal, plan


def images(data):
    return torch.cat([batch for batch, _ in data.train])


def test_statistics_become_those_of_the_images():
    model, _ = behind()
    data = tiny_data()
    batches = [batch for batch, _ in data.train]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    assert settle(model, batches) == 24
    assert model.training and model.norm.training and model.norm.momentum == 0.1
    with torch.no_grad():
        seen = [model.first(batch) for batch in batches]
    # float32 sums over 512 pixels
    expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    expected = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(model.norm.running_var, expected, rtol=1e-4, atol=1e-5)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_some_thousand_images_are_enough():
    model, _ = behind()
    assert settle(model, (torch.randn(8, 1, 8, 8) for _ in range(9)), images=20) == 24
    assert model.norm.num_batches_tracked == 3


def test_ten_thousand_images_are_enough_by_default():
    assert settle(nn.BatchNorm1d(1), [torch.ones(3333, 1)] * 9) == 4 * 3333


def test_a_network_without_numbers_is_refused():
    with pytest.raises(ModelError, match=r"`weight` is on the meta device"):
        settle(nn.BatchNorm1d(1).to("meta"), [torch.ones(3, 1)])


def test_a_network_without_running_statistics_is_left_alone():
    assert settle(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)), [torch.ones(3, 2)]) == 0


def test_equal_filters_with_settled_statistics_are_snapped_for_nothing():
    model, plan = behind()
    worst, name = unsettled(model, plan)
    assert worst > 0.1 and worst == pytest.approx(snap(model, plan).changes[name], rel=1e-6)  # float32
    assert settle_statistics(model, plan, tiny_data(), seed=0) == 24
    assert unsettled(model, plan)[0] < 1e-5  # float32 sums over 512 pixels
    again = copy.deepcopy(model.state_dict())
    assert settle_statistics(model, plan, tiny_data(), seed=0) == 0  # they are not behind any more
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_the_images_follow_from_the_seed_alone():
    first, second = behind()[0], behind()[0]
    plan, data = planned()[1], tiny_data()
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        torch.rand(3)
        settle_statistics(model, plan, data, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers()))


def answers(model, data):
    """The same images, whose classes are what the network says."""
    model.eval()
    with torch.no_grad():
        data.test.labels.copy_(torch.cat([model(batch).argmax(1) for batch, _ in data.test]))
    return data


def test_a_snap_that_changes_the_network_is_an_error():
    model, plan = behind()
    with torch.no_grad():
        model.norm.running_mean.copy_(torch.randn(8))
        model.norm.running_var.fill_(0.05)
        model.head.bias -= model(images(tiny_data())).mean(0)  # so that all classes are as likely
    data = answers(model, tiny_data())
    nets = trim(model, model, plan)
    changed = int((nets.snapped(images(data)).argmax(1) != model(images(data)).argmax(1)).sum())
    assert changed > 1
    says = rf"the snap changed the network: {changed} of 24 test images get another class \(accuracy 100\.00% before, "
    with pytest.raises(VerifyError, match=says + r".*where 1 may.*`norm\.running_mean`"):
        check_snap(nets, data)


@pytest.mark.parametrize(
    ("differ", "count", "passes"), [(0, 24, 0), (1, 24, 1), (2, 24, None), (2, 2000, 2), (3, 2000, None)]
)
def test_one_image_in_a_thousand_may_change(differ, count, passes):
    class Says(nn.Module):
        """The class that stands in the image, or another one."""

        def __init__(self, wrong):
            super().__init__()
            self.wrong = nn.Parameter(torch.tensor(float(wrong)))

        def forward(self, x):
            return nn.functional.one_hot((x[:, 0, 0, 0] < self.wrong).long(), 2).float()

    labels = torch.zeros(count, dtype=torch.long)
    pixels = torch.arange(count).float().view(-1, 1, 1, 1)
    data = tiny_data()
    test = type(data.test)(pixels, labels, 500)
    nets = dataclasses.replace(trim(*(planned()[0],) * 2, planned()[1]), trained=Says(0), snapped=Says(differ))
    nets.snapped.changes = {"norm.running_mean": 0.1}
    data = dataclasses.replace(data, test=test)
    if passes is None:
        with pytest.raises(VerifyError, match=f"{differ} of {count} test images"):
            check_snap(nets, data)
    else:
        assert check_snap(nets, data) == passes


def test_a_short_job_settles_and_tells(tmp_path):
    options = {"epochs": 1, "csgd_epochs": 2, "lr": 0.05, "csgd_lr": 0.05, "deviation": 1e-4}
    model = planned()[0]
    result = fxprune.compress(model, tiny_data(), output=tmp_path, progress=False, device="cpu", **options)
    assert result.settled == 24 and result.snap_changed <= 1
    rows = {stage.name: stage for stage in result.stages}
    assert rows["wide, after the snap"].changed == 0
    assert rows["wide, after C-SGD"].changed == result.snap_changed
    assert "with running statistics of 24 training images" in str(result)
