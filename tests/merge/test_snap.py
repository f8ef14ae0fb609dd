"""Snap, concentrate and merge: law by law, on couplings written down by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.couplings.cases import Normed, Plain, normed, plain, square
from helpers.jobs.inputs import planned
from samples import Net
from torch import nn

import fxprune
from fxprune.errors import CustomGradientWarning, ModelError, PlanError
from fxprune.passes.merge import clusters
from fxprune.passes.merge.concentrate import concentrate, kept_state, merged_state
from fxprune.passes.merge.snap import snap
from fxprune.passes.verify.compare import verify
from fxprune.plans import Plan

CLUSTERS = {
    plain: {"conv1.weight": [0, 1, 0, 2, 1, 3, 0, 0], "conv2.weight": [0, 1, 2, 1, 0, 2]},
    normed: {"up.weight": [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0], "mid.weight": [0, 0, 1, 1, 2, 2, 3, 3]},
    square: {"rows.weight": [0, 1, 1, 0, 2, 1], "columns.weight": [0, 0, 1, 2, 3, 2, 1, 4]},
}
CASES = pytest.mark.parametrize("make", list(CLUSTERS), ids=lambda make: make.__name__)


def merge_state(model, plan):
    return merged_state(model, plan)[0]


def plan_of(case, make):
    return Plan(case.coupling, {name: np.array(labels) for name, labels in CLUSTERS[make].items()})


def outputs(model, case):
    with torch.no_grad():
        return model(*case.inputs)


class Spectral(nn.Module):
    """Complex weights whose rows have equal real parts, two by two."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 5, dtype=torch.complex64))
        self.filter.data.real[1::2] = self.filter.data.real[::2]
        self.first, self.last = nn.Conv1d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.fft.irfft(torch.fft.rfft(self.first(x)) * self.filter).mean(-1))


def test_imaginary_parts_count():
    torch.manual_seed(0)
    net, x = Spectral().eval(), torch.randn(2, 3, 8)
    plan = Plan(fxprune.couple(net, x), {"filter": np.array([0, 0, 1, 1])})
    snapped = snap(net, plan)
    wide = net.filter.detach()
    mean = wide.unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(snapped.filter.detach()[::2], mean)
    away, size = (wide[::2] - mean).abs().square().sum(1).max(), wide.abs().square().sum(1).mean()
    assert snapped.changes["filter"] == pytest.approx(float((away / size).sqrt()), rel=1e-5)  # float32
    narrow = fxprune.narrow(snapped, plan)
    torch.testing.assert_close(narrow(x), snapped(x))
    assert fxprune.plan(plan.coupling, keep=0.5).widths["filter"] == (4, 2)


@CASES
def test_snapped_rows_are_identical_and_the_model_is_untouched(make):
    case = make()
    before = copy.deepcopy(case.model.state_dict())
    snapped = snap(case.model, plan_of(case, make))
    assert type(snapped) is type(case.model)
    state = snapped.state_dict()
    tied = [partition for partition in plan_of(case, make).partitions() if partition.tied]
    for partition in tied:
        new, old = state[partition.parameter], before[partition.parameter]
        for label in np.unique(partition.cluster):
            members = torch.as_tensor(np.flatnonzero(partition.cluster == label))
            rows = new.index_select(partition.dim, members)
            assert torch.equal(rows, rows.narrow(partition.dim, 0, 1).expand_as(rows))
            if old.dim() == 1:
                torch.testing.assert_close(rows[0], old[members].mean(), rtol=1e-14, atol=1e-14)  # float64 rounding
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(tensor, before[name])
        if name not in {partition.parameter for partition in tied}:
            assert torch.equal(state[name], tensor)


def test_float32_and_bfloat16_clusters_are_bit_identical_too():
    case = square()
    for dtype in (torch.float32, torch.bfloat16):
        table = snap(case.model.to(dtype), plan_of(case, square)).table.detach()
        rows, columns = (torch.tensor(labels) for labels in CLUSTERS[square].values())
        assert len(torch.unique(rows[:, None] * 5 + columns + 0 * table.long())) == 15
        assert len(torch.unique(table)) <= 15


def test_max_change_is_the_largest_row_change_over_the_rms_row_norm():
    case = plain()
    with torch.no_grad():
        case.model.conv1.bias.copy_(torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1]))
        case.model.bn1.bias.copy_(torch.tensor([3.0, 0, 1, 0, 0, 0, 0, 0]))
        case.model.bn1.running_mean.zero_()
    plan = Plan(case.coupling, {"conv1.weight": np.array([0, 1, 0, 2, 3, 4, 5, 6])})
    snapped = snap(case.model, plan)
    assert snapped.changes["conv1.bias"] == 0.0
    assert snapped.changes["bn1.running_mean"] == 0.0
    assert snapped.changes["bn1.bias"] == pytest.approx(1.0 / (10 / 8) ** 0.5, rel=1e-12)  # 3 and 1 become 2
    assert snapped.max_change == max(snapped.changes.values())
    assert snap(snapped, plan).max_change == 0.0


@CASES
def test_concentrated_network_computes_what_the_snapped_one_does(make):
    case = make()
    plan = plan_of(case, make)
    snapped, concentrated = snap(case.model, plan), concentrate(case.model, plan)
    wanted = outputs(snapped, case)
    assert not torch.allclose(wanted, outputs(case.model, case))  # the plan does something
    torch.testing.assert_close(outputs(concentrated, case), wanted, rtol=1e-12, atol=1e-12)  # the first oracle
    for partition in plan.partitions():
        if not partition.tied:
            gone = np.setdiff1d(np.arange(len(partition.cluster)), partition.kept)
            columns = dict(concentrated.named_parameters(remove_duplicate=False))[partition.parameter]
            assert not columns.index_select(partition.dim, torch.as_tensor(gone)).any()


def shifted(axis):
    return replace(axis, positions=np.roll(axis.positions, 1))


BROKEN = {
    "a tied axis is missing": lambda group: replace(group, tied=group.tied[:1]),
    "a reader is shifted": lambda group: replace(group, readers=(shifted(group.readers[0]),)),
    "a reader is taken for tied": lambda group: replace(group, tied=group.tied + group.readers, readers=()),
    "a tied axis is taken for a reader": lambda group: replace(group, tied=group.tied[1:], readers=group.tied[:1]),
}


def broken(how):
    case = plain()
    groups = dict(case.coupling.groups)
    groups["conv1.weight"] = how(groups["conv1.weight"])
    return replace(case, coupling=replace(case.coupling, groups=groups))


@pytest.mark.parametrize("how", BROKEN)
def test_the_oracles_fail_on_a_broken_coupling(how):
    case = broken(BROKEN[how])
    plan = plan_of(case, plain)
    wanted = outputs(snap(case.model, plan), case)
    concentrated = outputs(concentrate(case.model, plan), case)
    narrow = Plain(4, 3).double().eval()
    try:
        narrow.load_state_dict(merge_state(case.model, plan))
    except RuntimeError:  # narrow tensors that do not fit each other: found as well
        merged = torch.full_like(wanted, torch.inf)
    else:
        merged = outputs(narrow, case)
    # Oracle one sees every wrong sum; a sum that is not taken at all is seen by oracle two.
    assert max((concentrated - wanted).abs().max(), (merged - wanted).abs().max()) > 1e-3


NARROW = {plain: lambda: Plain(4, 3), normed: lambda: Normed(6, 4)}


@pytest.mark.parametrize("make", list(NARROW), ids=lambda make: make.__name__)
def test_merged_state_fits_the_network_built_narrow_and_computes_the_same(make):
    case = make()
    plan = plan_of(case, make)
    state = merge_state(case.model, plan)
    narrow = NARROW[make]().double().eval()
    assert narrow.load_state_dict(state, strict=True)
    wanted = outputs(snap(case.model, plan), case)
    torch.testing.assert_close(outputs(narrow, case), wanted, rtol=1e-9, atol=1e-9)  # the second oracle


@CASES
@pytest.mark.parametrize("chunk", [1, 1 << 19])
def test_merging_tensor_by_tensor_changes_no_bit(make, chunk, monkeypatch):
    monkeypatch.setattr(clusters, "_CHUNK", chunk)
    case = make()
    case.model.float()
    plan = plan_of(case, make)
    state, changes = merged_state(case.model, plan)
    concentrated = concentrate(case.model, plan)
    assert changes == pytest.approx(concentrated.changes, rel=1e-12)
    wanted = kept_state(concentrated, plan)
    assert list(state) == list(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())


def test_merged_tensors_are_the_models_own_and_shared_ones_stay_shared():
    case = normed()
    state = merge_state(case.model, plan_of(case, normed))
    assert state["down.weight"] is state["again.weight"]
    assert state["down.weight"].shape == (5, 4)
    mine = {tensor.data_ptr() for tensor in case.model.state_dict().values()}
    assert mine.isdisjoint(tensor.data_ptr() for tensor in state.values())
    assert torch.equal(state["down.bias"], case.model.down.bias)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_columns_are_summed_in_float64():
    case = plain()
    weight = case.model.float().conv2.weight
    with torch.no_grad():
        weight[0, [0, 2, 6, 7]] = torch.tensor([2.0**24, 1.0, 1.0, 2.0])[:, None, None]
    plan = Plan(case.coupling, {"conv1.weight": np.array(CLUSTERS[plain]["conv1.weight"])})
    assert (merge_state(case.model, plan)["conv2.weight"][0, 0] == 2.0**24 + 4).all()  # float32 would lose each 1


@pytest.mark.parametrize("act", [snap, concentrate, merge_state])
def test_a_plan_for_another_network_is_refused(act):
    with pytest.raises(PlanError, match=r"another network.*conv1.weight: \(8, 3, 3, 3\) in the plan, \(9, 3, 3, 3\)"):
        act(Plain(9), plan_of(plain(), plain))


def test_public_name():
    assert fxprune.snap is snap


def test_weights_without_numbers_are_refused():
    model, plan = planned()
    with pytest.raises(ModelError, match=r"`first\.weight` is on the meta device"):
        snap(model.to("meta"), plan)


def test_a_mean_with_a_nan_is_refused():
    model, plan = planned()
    model.first.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"`first\.weight` has 1 of 72 numbers that are not finite"):
        snap(model, plan)


def test_complex_weights_keep_their_imaginary_parts():
    torch.manual_seed(0)
    b = nn.Parameter(torch.randn(8, 4, dtype=torch.complex64))
    net = Net(lambda s, x: (torch.complex(x, x) @ s.a @ s.b).abs(), a=nn.Parameter(torch.randn(3, 8) + 1j), b=b)
    plan = fxprune.plan(fxprune.couple(net.eval(), torch.rand(2, 3)), widths={"a": 4}, method="even")
    snapped = fxprune.snap(net, plan)
    assert (snapped.a - net.a).imag.abs().max() < 1e-6  # all are 1
    assert verify(snapped, fxprune.narrow(snapped, plan), torch.rand(2, 3), tolerance=1e-6).passed
    with torch.no_grad():
        net.a.copy_(1 + 1j * torch.randn(3, 8))
    assert fxprune.snap(net, plan).changes["a"] > 0.1


@pytest.mark.parametrize("make", [fxprune.snap, fxprune.narrow])
def test_hooks_for_gradients_that_the_new_network_lacks_are_named(make):
    model, plan = planned()
    model = fxprune.snap(model, plan)
    name, weight = next(model.named_parameters())
    handle = weight.register_hook(lambda gradient: gradient * 2)
    with pytest.warns(CustomGradientWarning, match=f"hooks for the gradients of {name} are not part") as seen:
        make(model, plan)
    assert [each.filename for each in seen] == [__file__]
    handle.remove()
    make(model, plan)
