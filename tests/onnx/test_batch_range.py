"""A network that its guards bind to some batch sizes says so, and is exported with that bound."""

from __future__ import annotations

import pytest
import torch
from samples.table import Net, conv, linear

import fxprune
from fxprune.capture import capture
from fxprune.common.batches import BatchRange, batch_range
from fxprune.common.guards import SpecialisedError
from fxprune.passes.onnx import export_pt2, onnx_runner
from fxprune.passes.report import inspect_coupling

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def several(s, x):
    y = s.a(x) if x.shape[0] > 1 else x.repeat(1, 3, 1, 1)[:, :8]
    return s.head(y.relu().mean((2, 3)))


def exactly(s, x):
    return s.head(s.a(x).reshape(3, x.shape[0] // 3, 8, 8, 8).relu().mean((1, 3, 4)))


def decided(s, x):
    return s.head((s.a(x) if x.shape[0] == 3 else x[:, :1] + s.a(x)).relu().mean((2, 3)))


def any_size(s, x):
    return s.head(s.a(x).relu().mean((2, 3)))


BOUNDS = {"any": any_size, "2 or more": several, "3 only": decided}


def net(forward):
    torch.manual_seed(0)
    return Net(forward, a=conv(3, 8), head=linear(8, 4)).eval()


def narrowed(coupling, model):
    plan = fxprune.plan(coupling, keep=0.5, method="even")
    return fxprune.narrow(fxprune.snap(model, plan), plan)


@pytest.mark.parametrize("bound", BOUNDS)
def test_coupling_and_inspection_say_what_binds_the_batch(bound):
    coupling = fxprune.couple(net(BOUNDS[bound]), IMAGES)
    assert str(coupling.batch) == bound
    found = inspect_coupling(coupling, "net")
    for text in (str(coupling).lower(), found.text().lower()):
        assert (f"batch: {bound}, since " in text) == (bound != "any")


def needless(s, x):
    y = s.a(x)
    scale = torch.arange(x.shape[2] * 8).to(y.dtype)[
        None
    ]  # one row for all samples, as the positions of language models
    if x.shape[0] != scale.shape[0]:
        scale = scale.expand(x.shape[0], -1)
    return s.head((y * scale.reshape(-1, 1, 8, 8)).relu().mean((2, 3)))


def test_a_branch_that_changes_nothing_for_one_sample_binds_no_batch(tmp_path):
    model = net(needless)
    coupling = fxprune.couple(model, IMAGES)
    assert coupling.graph_module.meta["fxprune_capture"] == "concrete" and not coupling.batch.why
    narrow = narrowed(coupling, model)
    assert fxprune.verify(fxprune.snap(model, narrow.meta["plan"]), narrow, IMAGES, tolerance=1e-5).passed
    assert fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx").errors.keys() == {1, 2, 3, 5}


def test_a_literal_batch_is_found_without_a_guard():
    assert str(fxprune.couple(net(exactly), IMAGES).batch) == "3 only"


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_onnx_file_has_the_bound_of_its_network(bound, tmp_path):
    model = net(BOUNDS[bound])
    narrow = narrowed(fxprune.couple(model, IMAGES), model)
    report = fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx")
    sizes = {"any": [1, 2, 3, 5], "2 or more": [2, 3, 5], "3 only": [3]}[bound]
    assert list(report.errors) == sizes and report.max_rel_error < 1e-4
    assert (f"batch: {bound}" in str(report)) == (bound != "any")
    import onnx

    stored = {each.key: each.value for each in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert stored.get("batch", "any") == bound
    with torch.no_grad():
        torch.testing.assert_close(onnx_runner(tmp_path / "x.onnx")(IMAGES)[0], narrow(IMAGES))


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_pt2_file_refuses_another_batch(bound, tmp_path):
    model = net(BOUNDS[bound])
    assert export_pt2(narrowed(fxprune.couple(model, IMAGES), model), IMAGES, tmp_path / "x.pt2") < 1e-4
    read = torch.export.load(tmp_path / "x.pt2").module()
    read(IMAGES)
    if bound == "any":
        read(IMAGES[:1])
    else:
        with pytest.raises((RuntimeError, AssertionError)):
            read(IMAGES[:1])


def test_an_exported_capture_is_guarded_against_one_sample():
    captured = capture(net(several), (IMAGES,), ways=("export",))
    assert torch.equal(captured(IMAGES[:2]), net(several)(IMAGES[:2]))
    with pytest.raises(SpecialisedError, match="has two samples or more was True, run where it is False"):
        captured(IMAGES[:1])


@pytest.mark.parametrize(
    ("takes", "given", "found"),
    [
        (lambda n: True, 2, BatchRange()),
        (lambda n: n > 1, 2, BatchRange(2, None, "no")),
        (lambda n: n > 1, 4, BatchRange(2, None, "no")),
        (lambda n: n > 2, 4, BatchRange(4, None, "no")),
        (lambda n: n == 1, 1, BatchRange(1, 1, "no")),
        (lambda n: n < 3, 2, BatchRange(2, 2, "no")),
    ],
)
def test_a_range_is_found_by_runs(takes, given, found):
    def run(batch):
        if not takes(batch):
            raise SpecialisedError("no, run where it is another")

    assert batch_range(run, given) == found
