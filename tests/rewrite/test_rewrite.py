"""The narrow graph says the new numbers where channels are concerned, and is as it was elsewhere."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.rewrites.merges import halved as half_of
from helpers.rewrites.merges import narrow_unequal, snapped_and_narrow
from samples import SAMPLES, Net, conv, linear
from torch import nn

import fxprune
from fxprune.arguments.guards import guard_equal
from fxprune.errors import CaptureError, PlanError, RewriteError
from fxprune.passes.rewrite import calls as rewrite_calls
from fxprune.passes.rewrite import site as rewrite_site
from fxprune.passes.rewrite.graph import narrow_sizes
from fxprune.plans import Plan

A, B = "a.weight", "b.weight"


def halved(name, **clusters):
    """The narrow graph of a sample, clusters of neighbours unless given, before weights take its factors."""
    sample = SAMPLES[name]
    return narrow_unequal(
        sample.net, plan_of(fxprune.couple(sample.net, sample.inputs, check=False), **clusters), absorb=False
    )


def plan_of(coupling, **clusters):
    given = {f"{name}.weight": np.array(labels) for name, labels in clusters.items()}
    even = {name: np.arange(group.width) // 2 for name, group in coupling.groups.items() if group.width % 2 == 0}
    return Plan(coupling, given or even)


def call(graph_module, name):
    """Arguments of a node, nodes by name."""
    node = next(node for node in graph_module.graph.nodes if node.name == name)
    return torch.fx.map_arg((node.args, node.kwargs), str)


# Sample, node of the narrow graph, its arguments there.
ARGUMENTS = {
    "slice": ("getitem", (("a", (slice(None), slice(1, 3))), {})),
    "strided slice": ("getitem", (("a", (slice(None), [0, 2])), {})),
    "narrow from the end": ("narrow", (("a", 1, 2, 2), {})),
    "split and turned round": ("split", (("a", [2, 2], 1), {})),
    "padding by a value": ("pad", (("a", (0, 0, 0, 0, 0, 4)), {"mode": "constant", "value": 2.0})),
    "padded shortcut": ("pad", (("getitem", (0, 0, 0, 0, 1, 1)), {"mode": "constant", "value": None})),
    "functional depthwise": ("conv2d", (("a", "w", None, 1, 1, 1, 4), {})),
    "functional layer norm": ("layer_norm", (("a", (4,)), {"weight": "w", "bias": "v", "eps": 1e-05})),
    "leading sizes kept": ("reshape", (("a", ("getattr_1_size", "getattr_1_size_1", 2, 2)), {})),
    "all sizes given": ("reshape", (("a", -1, 4), {})),
    "fused attention, scale given": (
        "scaled_dot_product_attention",
        (("transpose", "transpose_1", "transpose_2"), {"scale": 0.6}),
    ),
    "fused attention by keyword": ("scaled_dot_product_attention", (("q", "k", "v"), {"scale": 2 * 8**-0.5})),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_literals_among_channels_are_rewritten(name):
    node, arguments = ARGUMENTS[name]
    assert call(halved(name), node) == arguments


@pytest.mark.parametrize("name", ["cat", "residual", "dense", "max pool", "squeeze and excitation"])
def test_graphs_without_such_literals_stay_as_they_are(name):
    sample = SAMPLES[name]
    wide = fxprune.couple(sample.net, sample.inputs).graph_module
    assert halved(name).code == wide.code


def test_what_does_not_get_narrow_stays_as_it_is():
    sample = SAMPLES["slice"]
    coupling = fxprune.couple(sample.net, sample.inputs)
    made = narrow_unequal(sample.net, Plan(coupling, {B: np.array([0, 0, 1, 1, 2, 2])}))
    assert made.code == coupling.graph_module.code


def test_new_tensors_without_channels_stay_as_they_are():
    net = Net(lambda s, x: s.b(y := s.a(x)).mean((1, 2, 3)) * y.new_ones(y.shape[0]), a=conv(3, 8), b=conv(8, 4)).eval()
    narrow = narrow_unequal(net, plan_of(fxprune.couple(net, torch.randn(2, 3, 4, 4))))
    assert call(narrow, "new_ones") == (("a", "getattr_1_size"), {})


def test_batch_and_space_stay_computed():
    code = halved("channel shuffle by view").code
    assert code.count(".size(0)") >= 1 and code.count(".size(2)") >= 1 and code.count(".size(3)") >= 1
    assert "view(" in code and ", 2, 2, " in code.replace("_", "")


def test_a_length_that_is_used_as_a_number_keeps_its_old_value():
    wide, made = SAMPLES["sizes as numbers"].net, halved("sizes as numbers")
    assert "0.3535533905932738" in made.code  # 8 ** -0.5, folded
    assert wide.a.out_channels == 8 and made.a.out_channels == 4


def test_a_number_of_channels_that_the_model_asks_for_is_not_guarded():
    net = Net(lambda s, x: s.b(y if (y := s.a(x)).shape[1] == 8 else y.relu()), a=conv(3, 8), b=conv(8, 4)).eval()
    wide = fxprune.couple(net, torch.randn(2, 3, 4, 4))
    guards = [
        graph.graph.find_nodes(op="call_function", target=guard_equal)
        for graph in (wide.graph_module, narrow_unequal(net, plan_of(wide)))
    ]
    assert (len(guards[0]), len(guards[1])) == (1, 0)


def test_products_of_activations_are_multiplied_by_the_size_of_clusters():
    made = halved("attention", q=[0, 0, 0, 0, 1, 1, 1, 1])
    (factor,) = [node for node in made.graph.nodes if node.target is operator.mul and node.args[1] == 4]
    assert factor.args[0].target is operator.matmul
    made = halved("linear attention", q=[0, 1, 2, 3, 0, 1, 2, 3])
    assert [node.args[1] for node in made.graph.nodes if node.target is operator.mul] == [2]


def test_nodes_remember_the_wide_node_that_they_stand_for():
    made = halved("attention")
    wide = {node.meta[rewrite_site.WIDE] for node in made.graph.nodes if rewrite_site.WIDE in node.meta}
    coupling = made.meta["plan"].coupling
    assert wide <= set(coupling.nodes)
    assert {"matmul", "softmax", "q", "k"} <= wide


def test_shapes_of_the_narrow_graph_follow_from_the_plan():
    sample = SAMPLES["dense"]
    coupling = fxprune.couple(sample.net, sample.inputs)
    plan = Plan(coupling, {A: np.array([0, 0, 1, 1, 2, 2, 3, 3]), "c.weight": np.array([0, 0, 0, 0, 1])})
    assert narrow_sizes(plan, coupling.nodes["cat_1"].value) == (2, 4 + 2 + 4, 8, 8)


def test_a_node_of_another_shape_than_the_plan_demands_is_named(monkeypatch):
    three = (slice(None), slice(0, 3))
    monkeypatch.setitem(rewrite_calls.CASES, operator.getitem, lambda site: site.copy((site.args[0], three), {}))
    shapes = r"has shape \[\(2, 3, 8, 8\)\] in the narrow graph; the plan demands \[\(2, 2, 8, 8\)\]"
    with pytest.raises(RewriteError, match=f"node `getitem` .* {shapes}"):
        halved("slice")


def test_a_graph_that_does_not_run_is_named(monkeypatch):
    monkeypatch.setitem(rewrite_calls.CASES, "reshape", lambda site: site.copy((site.args[0], (3, 3)), {}))
    with pytest.raises(RewriteError, match=r"does not run: node `reshape`"):
        halved("leading sizes kept")


def test_a_computed_bound_freezes_channels():
    net = Net(lambda s, x: s.head(s.a(x)[..., x.shape[1] :]), a=linear(3, 8), head=linear(6, 4)).eval()
    coupling = fxprune.couple(net, torch.zeros(3, 2, 3))
    assert not coupling.groups
    assert "a slice of channels that depends on an input" in str(coupling)


def test_one_layer_without_weights_ties_its_inputs():
    def forward(s, x):
        return s.head((s.n(s.a(x)) + s.c(s.n(s.b(x)))).mean((2, 3)))

    layers = {"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 8), "n": nn.InstanceNorm2d(8), "head": linear(8, 4)}
    net = Net(forward, **layers).eval()
    coupling = fxprune.couple(net, torch.zeros(2, 3, 8, 8))
    assert {name: group.width for name, group in coupling.groups.items()} == {"a.weight": 8}
    assert "b.weight:0" in map(str, coupling.groups["a.weight"].tied)
    assert fxprune.prove(net, torch.zeros(2, 3, 8, 8)).passed


def test_channels_that_a_negative_padding_removes_merge_alone():
    def forward(s, x):
        y = s.a(x)
        return s.head((s.b(F.pad(y, (0, 0, 0, 0, -4, 0))) + s.c(y[:, :4])).mean((2, 3)))

    model = Net(forward, a=conv(3, 8), b=conv(4, 6), c=conv(4, 6), head=linear(6, 4)).double().eval()
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    coupling = fxprune.couple(model, x)
    clusters = {name: np.arange(group.width) for name, group in coupling.groups.items()}
    snapped, narrow = snapped_and_narrow(model, Plan(coupling, {**clusters, "a.weight": np.array([0, 0, 1, 1])}))
    assert narrow.a.weight.shape[0] == 6
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_a_plan_fits_only_the_stored_number_that_picked_its_channel():
    net = Net(lambda s, x: s.b(s.a(x) * s.a(x)[:, s.at][:, None]), a=conv(3, 8), b=conv(8, 4)).eval()
    net.register_buffer("at", torch.tensor(2))
    net.register_buffer("steps", torch.tensor(0))
    plan = fxprune.plan(fxprune.couple(net, (torch.randn(2, 3, 4, 4),)), keep=0.5, method="even")
    net.steps.add_(1)  # picks nothing
    assert fxprune.plan_for(net, plan) is plan
    net.at.add_(1)
    with pytest.raises(PlanError, match="buffers hold other values"):
        fxprune.plan_for(net, plan)


@pytest.mark.parametrize("index", [lambda s, y: s.at, lambda s, y: s.at + 0, lambda s, y: (y.mean() > 0).long()])
def test_a_piece_that_a_tensor_picks_is_refused(index):
    net = Net(lambda s, x: s.b((y := s.a(x)).split(4, 1)[index(s, y)]), a=conv(3, 8), b=conv(4, 4)).eval()
    net.register_buffer("at", torch.tensor(1))
    with pytest.raises(CaptureError, match="values of a tensor"):
        fxprune.couple(net, (torch.randn(2, 3, 4, 4),))


slice_of = torch.ops.aten.slice.Tensor


@pytest.mark.parametrize(
    "cut",
    [
        lambda y: slice_of(y, 1, 4),
        lambda y: slice_of(y, dim=1, start=2, end=6),
        lambda y: slice_of(y, 1, 1, 6, 2),
        lambda y: slice_of(y, 1, step=3),
    ],
)
def test_bounds_of_a_slice_are_given_by_place_or_by_name(cut):
    net = Net(lambda s, x: s.b(y := s.a(x)).mean((1, 2, 3)) + cut(y).amax((1, 2, 3)), a=conv(3, 8), b=conv(8, 4))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    coupling = fxprune.couple(net.double().eval(), x)
    snapped, narrow = snapped_and_narrow(
        net, Plan(coupling, {name: np.arange(group.width) // 2 for name, group in coupling.groups.items()})
    )
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_what_an_index_copies_is_no_slice_of_the_narrow_network():
    def forward(s, x):
        y = s.a(x)
        some = y[:, [4, 6]]
        some.tanh_()
        return s.b(torch.cat([y, some], 1))

    net = Net(forward, a=conv(3, 8), b=conv(10, 4)).double().eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    coupling = fxprune.couple(net, x)
    clusters = {6: [0, 1, 2, 2, 0, 1], 2: [0, 1]}
    plan = Plan(coupling, {found[0].name: np.array(clusters[found[0].width]) for found in coupling.domains}, "", 0)
    snapped, narrow = snapped_and_narrow(net, plan)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_a_list_among_channels_may_be_written_to():
    def forward(s, x):
        y = s.a(x).relu()
        y[:, [0, 2]] = 0.5
        return s.b(y)

    net = Net(forward, a=conv(3, 8), b=conv(8, 4)).double().eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    snapped, narrow = half_of(net, x)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


@pytest.mark.parametrize(
    "spread",
    [
        lambda y: y.var(),
        lambda y: y.var(False),
        lambda y: y.std(1),
        lambda y: y.var((1, 2), False),
        lambda y: y.var((1, 2), True, True),
        lambda y: y.var(1, correction=3),
        lambda y: torch.std(y, unbiased=False),
    ],
)
def test_a_variance_over_channels_is_corrected_by_the_same_number(spread):
    net = Net(lambda s, x: s.b(y := s.a(x)).mean((1, 2, 3)) * spread(y).sum(), a=conv(3, 8), b=conv(8, 4))
    net, x = net.double().eval(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    snapped, narrow = half_of(net, x)
    assert narrow.a.out_channels == 4
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64


def test_pieces_may_be_added_to_a_tuple():
    net = Net(lambda s, x: s.b(torch.cat(operator.add((y := s.a(x),), y.split(4, 1)), 1)), a=conv(3, 8), b=conv(16, 4))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    snapped, narrow = half_of(net.double().eval(), x)
    torch.testing.assert_close(narrow(x), snapped(x), rtol=1e-12, atol=1e-12)  # float64
