"""The files of a network that its guards bind to some batch sizes take no other ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.networks.batches import BOUNDS, IMAGES, deciding, narrowed, net
from samples.table import Net, conv, linear

import fxprune
from fxprune.passes.onnx import batches_of, check_onnx, export_pt2, onnx_runner

DECISIONS = [
    (lambda x, y: x.shape[0] > 7, "1 to 7"),
    (lambda x, y: x.shape[0] != 7, "1 to 6"),
    (lambda x, y: x.shape[0] != 1 and x.shape[0] != 7, "2 to 6"),
]


@pytest.mark.parametrize(("decide", "bound"), DECISIONS)
def test_no_file_runs_at_a_batch_beyond_a_decision(decide, bound, tmp_path):
    model = net(deciding(decide))
    narrow = narrowed(fxprune.couple(model, IMAGES), model)
    report = fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx")
    assert f"batch: {bound}, since captured where " in str(report)
    export_pt2(narrow, IMAGES, tmp_path / "x.pt2")
    for read in (onnx_runner(tmp_path / "x.onnx"), torch.export.load(tmp_path / "x.pt2").module()):
        for batch in map(int, bound.split(" to ")):
            read(IMAGES.repeat(3, 1, 1, 1)[:batch])
        for batch in (8, 9, 30, *[1] * bound.startswith("2")):
            with pytest.raises(Exception, match=r"reshape|dimension|Guard failed|a batch of"):
                read(IMAGES.repeat(10, 1, 1, 1)[:batch])


PIECES = {
    "two": (1, lambda x: x.split(2), {}),
    "sixteen, by names": (3, lambda x: torch.chunk(chunks=(x.shape[0] + 15) // 16, input=x), {}),
    "beside a layer of that name": (3, lambda x: x.chunk((x.shape[0] + 15) // 16), {"chunk": linear(8, 8)}),
}


@pytest.mark.parametrize("case", PIECES)
def test_a_batch_that_is_one_piece_is_not_cut_in_a_file(case, tmp_path):
    given, cut, layers = PIECES[case]
    inputs = IMAGES[:given]

    def forward(s, x):
        y = torch.cat([s.a(piece).relu() for piece in cut(x)]).mean((2, 3))
        return s.head(s.chunk(y) if layers else y)

    model = Net(forward, a=conv(3, 8), head=linear(8, 4), **layers).eval()
    coupling = fxprune.couple(model, inputs)
    report = fxprune.export_onnx(narrowed(coupling, model), inputs, tmp_path / "x.onnx")
    assert str(report.batch) == str(coupling.batch) == f"1 to {2 if given == 1 else 16}"


def test_a_range_of_very_many_batch_sizes_is_not_listed():
    def forward(s, x):
        pieces = x.chunk((x.shape[0] + 2**28 - 1) // 2**28) if x.shape[0] < 2**28 else x.split(1)
        return s.head(torch.cat([s.a(piece).relu() for piece in pieces]).mean((2, 3)))

    model = Net(forward, a=conv(3, 8), head=linear(8, 4)).eval()
    coupling = fxprune.couple(model, IMAGES)
    assert str(coupling.batch) == f"1 to {2**28 - 1}"
    assert batches_of(coupling.graph_module, (IMAGES,)).fixed, "the file takes the batch of its example"


def needless(s, x):
    y = s.a(x)
    scale = torch.arange(x.shape[2] * 8).to(y.dtype)[
        None
    ]  # one row for all samples, as the positions of language models
    if x.shape[0] != scale.shape[0]:
        scale = scale.expand(x.shape[0], -1)
    scale = scale * (1 / 2 ** torch.arange(8)).repeat(8)  # a constant, of which each graph has a copy
    return s.head((y * scale.reshape(-1, 1, 8, 8)).relu().mean((2, 3)))


def test_a_branch_that_changes_nothing_for_one_sample_binds_no_batch(tmp_path):
    model = net(needless)
    coupling = fxprune.couple(model, IMAGES)
    assert coupling.graph_module.meta["fxprune_capture"] == "concrete" and not coupling.batch.why
    narrow = narrowed(coupling, model)
    assert fxprune.verify(fxprune.snap(model, narrow.meta["plan"]), narrow, IMAGES, tolerance=1e-5).passed
    assert fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx").errors.keys() == {1, 2, 3, 5}


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


def test_the_onnx_file_of_one_group_for_each_sample_has_the_batch_of_the_example(tmp_path):
    def forward(s, x):
        y, n = s.a(x), x.shape[0]
        kernels = s.k(y.mean((2, 3))).view(n * 8, 1, 3, 3)
        y = F.conv2d(y.reshape(1, n * 8, 8, 8), kernels, groups=n * 8)
        return s.head(y.view(n, 8, 6, 6).mean((2, 3)))

    model = Net(forward, a=conv(3, 8), k=linear(8, 72), head=linear(8, 4)).eval()
    coupling = fxprune.couple(model, IMAGES)
    narrow = narrowed(coupling, model)
    report = fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx")
    assert (str(coupling.batch), str(report.batch), list(report.errors)) == ("any", "3 only", [3])
    assert "batch: 3 only, since an attribute of an ONNX operator" in str(report)
    assert list(check_onnx(narrow, tmp_path / "x.onnx", IMAGES).errors) == [3]


@pytest.mark.parametrize("bound", ["2 or more", "3 only"])
def test_the_onnx_file_stops_below_its_bound(bound, tmp_path):
    model = net(BOUNDS[bound])
    narrow = narrowed(fxprune.couple(model, IMAGES), model)
    fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx")
    for optimise in (True, False):
        with pytest.raises(Exception, match=r"cannot be reshaped|invalid dimensions"):
            onnx_runner(tmp_path / "x.onnx", optimise=optimise)(IMAGES[:1])


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


GHOSTS = {  # as TabNet's ghost batch norm: batches of at most six samples at a time
    3: ("1 to 6", "1 to 6"),
    6: ("1 to 6", "1 to 6"),
    8: ("8 to 12", "8 only"),
}


@pytest.mark.parametrize("given", GHOSTS)
def test_a_batch_in_pieces_bounds_the_coupling_and_the_files(given, tmp_path):
    def forward(s, x):
        y = s.a(x)
        return s.head(torch.cat([s.bn(piece) for piece in y.chunk(math.ceil(y.shape[0] / 6))]))

    torch.manual_seed(0)
    model = Net(forward, a=linear(6, 8), bn=torch.nn.BatchNorm1d(8), head=linear(8, 4)).eval()
    inputs = torch.randn(given, 6)
    coupling = fxprune.couple(model, inputs)
    narrow = narrowed(coupling, model)
    report = fxprune.export_onnx(narrow, inputs, tmp_path / "net.onnx", batches=(1, 2, 5, 6))
    assert (str(coupling.batch), str(report.batch)) == GHOSTS[given]
    run = onnx_runner(tmp_path / "net.onnx")
    if given < 8:
        assert sorted(report.errors) == [1, 2, 5, 6]
        with pytest.raises(Exception, match="cannot be reshaped"):
            run(torch.randn(7, 6))
    export_pt2(narrow, inputs, tmp_path / "net.pt2", batches=(1, 2, 5, 6))


def test_a_file_is_checked_at_the_batches_that_it_takes(tmp_path):
    model = Net(lambda s, x: s.b(torch.cat([*s.a(x).split(4)])), a=linear(6, 8), b=linear(8, 4)).eval()
    inputs = torch.randn(3, 6)
    narrow = narrowed(fxprune.couple(model, inputs), model)
    report = fxprune.export_onnx(narrow, inputs, tmp_path / "net.onnx")
    assert (str(report.batch), sorted(report.errors)) == ("1 to 4", [1, 2, 3])
