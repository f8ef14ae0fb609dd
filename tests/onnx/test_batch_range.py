"""A network that its guards bind to some batch sizes says so, and is exported with that bound."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.unequal import narrow_snapped
from samples.table import Net, conv, linear

import fxprune
from fxprune.arguments.batches import BatchRange, batch_range, graph_batches
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture import capture
from fxprune.passes.inspection import inspect_coupling
from fxprune.passes.onnx import batches_of, check_onnx, eager_on_cpu, export_pt2, onnx_runner

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
    return narrow_snapped(model, plan)


@pytest.mark.parametrize("bound", BOUNDS)
def test_coupling_and_inspection_say_what_binds_the_batch(bound):
    coupling = fxprune.couple(net(BOUNDS[bound]), IMAGES)
    assert str(coupling.batch) == bound
    found = inspect_coupling(coupling, "net")
    for text in (str(coupling).lower(), found.text().lower()):
        assert (f"batch: {bound}, since " in text) == (bound != "any")


DECISIONS = {
    "several": (lambda x, y: x.shape[0] > 1, "2 or more"),
    "not one": (lambda x, y: x.shape[0] != 1, "2 or more"),
    "as many": (lambda x, y: x.shape[0] == y.shape[0], "any"),
    "more after one is added": (lambda x, y: 2 * x.shape[0] + 1 > x.shape[0], "any"),
    "a shape that was not kept": (lambda x, y: x.shape != None, "any"),  # noqa: E711 (as heads of YOLO ask)
    "an open size in a shape": (lambda x, y: -1 in x.shape, "any"),  # as einops asks
    "open sizes that are counted": (lambda x, y: sum(size == -1 for size in x.shape) > 0, "any"),
    "a shape stated anew": (lambda x, y: x.shape == (y.shape[0], 3, *x.shape[2:]), "any"),
    "a shape as an object": (lambda x, y: x.shape == torch.Size([y.shape[0], 3, *x.shape[2:]]), "any"),
    "a shape of as many by chance": (lambda x, y: x.shape == (2 * y.shape[0] - 3, 3, *x.shape[2:]), "3 only"),
    "seven in a shape": (lambda x, y: 7 in x.shape, "1 to 6"),
    "pieces of at most sixteen": (lambda x, y: len(x.chunk(math.ceil(x.shape[0] / 16))) == 1, "1 to 16"),
    "pieces of at most four": (lambda x, y: len(x.split(4)) == 1, "1 to 4"),
    "pieces of at most three": (lambda x, y: (x.shape[0] + 2) // 3 == 1, "1 to 3"),
    "pieces as many as samples": (lambda x, y: len(x.chunk(2)) == 2, "2 or more"),
    "pieces of pieces": (
        lambda x, y: len(torch.cat([*x.chunk((x.shape[0] + 15) // 16)][:1]).chunk(-(-x.shape[0] // 8))) == 1,
        "1 to 8",
    ),
    "pieces of an image": (lambda x, y: len(y.chunk(2, 2)) == 2, "any"),
    "size of an image": (lambda x, y: x.shape[2] > 4, "any"),
    "whole windows of an image": (lambda x, y: x.shape[2] % 4 == 0, "any"),
    "windows that are counted": (lambda x, y: x.shape[0] * (x.shape[2] // 4) > x.shape[0], "any"),
    "whole windows of all samples": (lambda x, y: x.flatten(0, 2).shape[0] % 8 == 0, "any"),
    "windows of all samples": (lambda x, y: x.flatten(0, 2).shape[0] // 8 > 1, "any"),
    "windows of some samples": (lambda x, y: x.flatten(0, 2).shape[0] % 16 == 8, "3 only"),
    "windows of all samples, by a float": (
        lambda x, y: math.trunc(x.flatten(0, 2).shape[0] / (x.shape[2] * x.shape[3] / 4 / 4)) > 1,  # as in Swin
        "any",
    ),
    "half windows, by a float": (lambda x, y: int(x.flatten(0, 2).shape[0] / 16) > 1, "3 only"),
    "windows of a part": (lambda x, y: (8 - x.size()[2:][1] % 8) % 8 > 0, "any"),
    "many": (lambda x, y: x.shape[0] > 7, "1 to 7"),
    "a part that is counted": (lambda x, y: len(x.size()[: 1 + (x.shape[0] > 50) * (x.shape[0] < 99)]) == 1, "3 only"),
    "even rows": (lambda x, y: x.flatten(0, 1).shape[0] % 2 == 0, "3 only"),
    "not many": (lambda x, y: not x.shape[0] >= 8, "1 to 7"),
    "none of seven": (lambda x, y: x.shape[0] != 7, "1 to 6"),
    "neither one nor seven": (lambda x, y: x.shape[0] != 1 and x.shape[0] != 7, "2 to 6"),
    "twice as many": (lambda x, y: 2 * x.shape[0] - 1 >= 15, "1 to 7"),
    "even": (lambda x, y: x.shape[0] % 2 == 0, "3 only"),
    "one in eleven": (lambda x, y: x.shape[0] % 11 == 5, "1 to 4"),
    "a few of them": (lambda x, y: y[:50].shape[0] == x.shape[0], "3 only"),
}


def deciding(decide):
    def forward(s, x):
        y = s.a(x).relu()
        return s.head((y * 2 if decide(x, y) else y - 1).mean((2, 3)))

    return forward


@pytest.mark.parametrize("case", DECISIONS)
def test_a_decision_at_any_batch_size_binds_the_batch(case):
    decide, bound = DECISIONS[case]
    model = net(deciding(decide))
    coupling = fxprune.couple(model, IMAGES)
    assert str(coupling.batch) == bound
    assert str(batches_of(eager_on_cpu(narrowed(coupling, model)), (IMAGES,))) == bound


@pytest.mark.parametrize("case", ["many", "none of seven", "neither one nor seven"])
def test_no_file_runs_at_a_batch_beyond_a_decision(case, tmp_path):
    model = net(deciding(DECISIONS[case][0]))
    narrow = narrowed(fxprune.couple(model, IMAGES), model)
    report = fxprune.export_onnx(narrow, IMAGES, tmp_path / "x.onnx")
    bound = DECISIONS[case][1]
    assert f"batch: {bound}, since captured where " in str(report)
    export_pt2(narrow, IMAGES, tmp_path / "x.pt2")
    for read in (onnx_runner(tmp_path / "x.onnx"), torch.export.load(tmp_path / "x.pt2").module()):
        for batch in map(int, bound.split(" to ")):
            read(IMAGES.repeat(3, 1, 1, 1)[:batch])
        for batch in (8, 9, 30, *[1] * bound.startswith("2")):
            with pytest.raises(Exception, match=r"reshape|dimension|Guard failed|a batch of"):
                read(IMAGES.repeat(10, 1, 1, 1)[:batch])


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


def shortened(s, x):
    """As language models do, skips a mask where numbers can be read, and where these show that it masks nothing."""
    places = torch.arange(x.shape[2])[None]
    if x.shape[0] != places.shape[0]:
        places = places.expand(x.shape[0], -1)
    y = s.a(x)
    if isinstance(places, torch.fx.Proxy) or (places < 0).any():
        y = y * (places >= 0).reshape(-1, 8, 1, 1)
    return s.head(y.relu().mean((2, 3)))


def test_a_branch_that_records_no_gradients_for_several_samples_binds():
    def forward(s, x):
        if x.shape[0] > 1:
            with torch.no_grad():
                y = s.a(x).relu()
        else:
            y = s.a(x).relu()
        return s.head(y.mean((2, 3)))

    assert str(fxprune.couple(net(forward), IMAGES).batch) == "2 or more"


def test_a_shortcut_that_a_trace_does_not_take_binds_no_batch():
    assert str(fxprune.couple(net(shortened), IMAGES).batch) == "any"


NEUTRAL_FOR_THE_EXAMPLE = {
    "clamp": lambda y: y.clamp(max=50.0),
    "no NaN": lambda y: y.nan_to_num(0.0),
    "mask": lambda y: y.masked_fill(y > 50, 0.0),
    "written": lambda y: y.clamp_(max=50.0),
}


@pytest.mark.parametrize("case", NEUTRAL_FOR_THE_EXAMPLE)
def test_a_branch_that_changes_no_number_of_the_example_still_binds(case):
    def forward(s, x):
        y = s.a(x).relu()
        return s.head((NEUTRAL_FOR_THE_EXAMPLE[case](y) if x.shape[0] > 1 else y).mean((2, 3)))

    assert str(fxprune.couple(net(forward), IMAGES).batch) == "2 or more"


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


def test_nothing_is_known_where_inputs_share_no_batch():
    def forward(s, x, table):
        y = s.a(x) if x.shape[0] > 7 else s.a(x) * 2
        return s.head(y.relu().mean((2, 3))) + table.sum()

    coupling = fxprune.couple(net(forward), (IMAGES, torch.randn(5, 2)))
    assert not coupling.batch.holds(9)
    assert "batch: unknown, since the inputs share no size along axis 0" in str(coupling)


def test_a_graph_that_runs_with_numbers_only_is_bound_to_its_example():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_method("mul", (x, graph.call_method("item", (graph.call_method("sum", (x,)),)))))
    found = graph_batches(torch.fx.GraphModule(torch.nn.Module(), graph), (IMAGES,))
    assert str(found) == "3 only" and "does not run without numbers" in found.why


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
