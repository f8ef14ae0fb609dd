"""A network that its guards bind to some batch sizes says so, and is exported with that bound."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.networks.batches import BOUNDS, IMAGES, deciding, narrowed, net, several

import fxprune
from fxprune.arguments.batches import BatchRange, batch_range, graph_batches
from fxprune.arguments.guards import SpecialisedError
from fxprune.capture import capture
from fxprune.passes.inspection import inspect_coupling
from fxprune.passes.onnx import batches_of, eager_on_cpu


def exactly(s, x):
    return s.head(s.a(x).reshape(3, x.shape[0] // 3, 8, 8, 8).relu().mean((1, 3, 4)))


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
    "pieces of channels": (lambda x, y: len(y.chunk(2, 1)) == 2, "any"),
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
    "a shape of what is divided by the batch": (  # as heads that are merged again
        lambda x, y: x.view(x.shape[0], x.flatten(0, 1).shape[0] // x.shape[0], 64).shape[1] % 3 == 0,
        "any",
    ),
    "one more, divided by the batch": (lambda x, y: x.view((3 * len(x) + 1) // len(x), -1).shape[0] == 3, "3 only"),
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
    "two truths": (lambda x, y: (x.shape[0] % 7 < 5) + (x.shape[0] % 5 < 4) == 2, "1 to 3"),
    "a rest of zero": (lambda x, y: x.shape[0] % (x.shape[0] - 9) > -9, "3 only"),
    "a rest as a truth": (lambda x, y: bool(x.shape[0] % 4), "3 only"),
    "a part by a number that is not even": (
        lambda x, y: y[: x.shape[0] - (x.shape[0] % 11 == 0)].shape[0] == x.shape[0],
        "3 only",
    ),
    "pieces of a part by such a number": (
        lambda x, y: len(torch.cat([x, x[: 6 * (x.shape[0] // 7) * (10 // x.shape[0])]]).split(12)) == 1,
        "3 only",
    ),
    "a few of them": (lambda x, y: y[:50].shape[0] == x.shape[0], "3 only"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_a_decision_at_any_batch_size_binds_the_batch(case):
    decide, bound = DECISIONS[case]
    model = net(deciding(decide))
    coupling = fxprune.couple(model, IMAGES)
    assert str(coupling.batch) == bound
    assert str(batches_of(eager_on_cpu(narrowed(coupling, model)), (IMAGES,))) == bound


# An example of another batch size than 3; what slices leave below it, and what turns far beyond it.
AT = {
    "bits": (4, lambda x, y: bool(x.shape[0] & 4), "4 only"),
    "bits that differ": (4, lambda x, y: bool(x.shape[0] ^ 5), "4 only"),
    "truths as bits": (4, lambda x, y: (x.shape[0] > 1) & (x.shape[0] < 9), "2 to 8"),
    "at most fifty": (60, lambda x, y: x[:50].shape[0] != 7, "60 only"),
    "the last seven": (8, lambda x, y: y[-7:].shape[0] != 5, "8 only"),
    "pieces that may be changed": (7, lambda x, y: len(x.unsafe_chunk(4)) == 4, "7 to 8"),
    "far more": (3, lambda x, y: x.shape[0] <= 65535, "1 to 65535"),
    "far larger pieces": (3, lambda x, y: len(x.split(32768)) == 1, "1 to 32768"),
}


@pytest.mark.parametrize("case", AT)
def test_a_decision_binds_the_batch_below_and_far_beyond_the_example(case):
    given, decide, bound = AT[case]
    coupling = fxprune.couple(net(deciding(decide)), IMAGES[:1].expand(given, -1, -1, -1).contiguous())
    assert str(coupling.batch) == bound


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
