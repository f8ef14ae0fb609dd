"""From ids to groups: names, positions, codes, domains, what is frozen and why, and how it prints."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from samples import SAMPLES, Net, free, linear
from torch import fx, nn

import fxprune
from fxprune.node_facts import Shape
from fxprune.pytorch.source import is_machinery

A, B = "a.weight", "b.weight"


def couple(name):
    sample = SAMPLES[name]
    return fxprune.couple(sample.net, sample.inputs)


def axes(group):
    return {str(axis) for axis in group.tied}, {str(axis) for axis in group.readers}


ROLES = {
    "residual": (A, "a.weight:0 a.bias:0 c.weight:0 c.bias:0", "c.weight:1 b.weight:1"),
    "batch norm": (A, "a.weight:0 a.bias:0 n.weight:0 n.bias:0 n.running_mean:0 n.running_var:0", "b.weight:1"),
    "depthwise": (A, "a.weight:0 a.bias:0 d.weight:0 d.bias:0", "b.weight:1"),
    "depth multiplier": (A, "a.weight:0 a.bias:0 d.weight:0 x2 d.bias:0 x2", "b.weight:1 x2"),
    "grouped": (A, "a.weight:0 x2 a.bias:0 x2", "d.weight:1"),
    "transposed": ("d.weight", "d.weight:1 d.bias:0", "b.weight:1"),
    "linear after flatten": (A, "a.weight:0 a.bias:0", "f.weight:1 x64"),
    "layer scale": ("g", "g:0 a.weight:0 a.bias:0", "b.weight:1"),
    "embedding": ("e.weight", "e.weight:1", "head.weight:1"),
    "channel shuffle by view": (A, "a.weight:0 x2 a.bias:0 x2", "b.weight:1 x2"),
    "attention with heads by view": ("q.weight", "q.weight:0 x2 q.bias:0 x2 k.weight:0 x2 k.bias:0 x2", ""),
    "learned queries": ("k.weight", "k.weight:0 k.bias:0", "p:1"),
    "one layer twice in a row": (A, "a.weight:0 a.bias:0 c.weight:0 c.bias:0", "c.weight:1 b.weight:1"),
    "class token and positions": ("t", "t:2 p:2 a.weight:0 a.bias:0", "head.weight:1"),
}


@pytest.mark.parametrize("name", ROLES)
def test_who_is_tied_and_who_reads(name):
    group, tied, readers = ROLES[name]
    found = couple(name).groups[group]
    words = (set(text.replace(" x", "*x").split()) for text in (tied, readers))
    assert axes(found) == tuple({word.replace("*x", " x") for word in side} for side in words)


def test_a_network_without_parameters_has_no_groups():
    assert not fxprune.couple(nn.Sequential(nn.ReLU()), torch.zeros(2, 3)).groups


def test_positions_pair_the_occurrences_of_channels():
    group = couple("channel shuffle by view").groups[A]
    assert {str(axis): axis.positions.tolist() for axis in group.tied} == {
        "a.weight:0 x2": [[0, 4], [1, 5], [2, 6], [3, 7]], "a.bias:0 x2": [[0, 4], [1, 5], [2, 6], [3, 7]],
    }  # fmt: skip
    assert group.readers[0].positions.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def assert_positions_are_a_partition(coupling):
    taken = {}
    for group in coupling.groups.values():
        assert group.tied and group.width > 1
        for axis in (*group.tied, *group.readers):
            places = axis.positions.ravel()
            assert axis.positions.shape[0] == group.width
            assert places.min() >= 0 and places.max() < coupling.shapes[axis.parameter][axis.dim]
            taken.setdefault((axis.parameter, axis.dim), []).extend(places.tolist())
    for places in taken.values():
        assert len(places) == len(set(places))


def test_codes_number_the_channels_of_all_groups_in_a_row():
    coupling = couple("dense")
    starts = [group.offset for group in coupling.groups.values()]
    widths = [group.width for group in coupling.groups.values()]
    assert starts == np.cumsum([0, *widths[:-1]]).tolist()
    assert coupling.channels == sum(widths)


def test_nodes_know_their_channels():
    coupling = couple("cat")
    shape = coupling.nodes["cat"].value
    assert isinstance(shape, Shape) and shape.sizes == (2, 13, 8, 8) and shape.labelled
    assert [None if codes is None else codes.tolist() for codes in shape.axes] == [
        None,
        [*range(8), *range(14, 19)],
        None,
        None,
    ]
    assert not coupling.nodes["inputs_0"].value.labelled


def test_a_node_that_returns_no_tensor_keeps_its_value():
    nodes = couple("sizes of another tensor").nodes
    assert nodes["getattr_1"].value == (2, 5, 8)


def test_work_scales_with_the_axes_that_it_names():
    coupling = couple("residual")
    (work,) = coupling.nodes["c"].works
    assert work.macs == 2 * 64 * 8 * 8
    assert [codes.tolist() for codes in work.axes] == [list(range(8)), list(range(8))]
    (work,) = couple("depthwise").nodes["d"].works
    assert work.macs == 2 * 64 * 9 * 8 and [len(codes) for codes in work.axes] == [8]
    (work,) = couple("grouped").nodes["d"].works
    assert work.macs == 2 * 64 * 9 * 12 * 4


def test_products_of_activations_are_noted_at_their_nodes():
    nodes = couple("attention").nodes
    noted = {name: [(len(codes), power) for codes, power in facts.products] for name, facts in nodes.items()}
    assert {name: products for name, products in noted.items() if products} == {"matmul": [(8, 1.0)]}


DOMAINS = {
    "group norm after cat": [{A, "c.weight"}],
    "mean over a cat": [{A, "c.weight"}],
    "layer norm": [{A}],
    "attention": [{"q.weight"}],
    "batch norm after cat": [],
    "residual": [],
}


@pytest.mark.parametrize("name", DOMAINS)
def test_groups_under_one_average_are_one_domain(name):
    domains = {}
    for group in couple(name).groups.values():
        assert group.balanced == (group.domain >= 0)
        if group.balanced:
            domains.setdefault(group.domain, set()).add(group.name)
    assert sorted(map(sorted, domains.values())) == sorted(map(sorted, DOMAINS[name]))


def heads_with_a_table(width):
    """Attention of four heads, and a table of positions for each."""

    def forward(s, x):
        q, k, v = (layer(x).unflatten(-1, (4, width)).transpose(1, 2) for layer in (s.q, s.k, s.v))
        return s.o(((q @ k.mT + s.t).softmax(-1) @ v).transpose(1, 2).flatten(2))

    layers = {name: linear(6, 4 * width) for name in "qkv"}
    return Net(forward, **layers, o=linear(4 * width, 4), t=free(4, 5, 5)).eval()


@pytest.mark.parametrize(("width", "heads"), [(5, True), (7, True), (6, False), (8, False), (9, False), (12, False)])
def test_heads_merge_if_channels_within_them_would_in_clusters_of_more_than_four_only(width, heads):
    groups = fxprune.couple(heads_with_a_table(width), torch.zeros(2, 5, 6)).groups
    assert {group.width for group in groups.values()} == {4 if heads else width}


def test_names_are_of_the_first_tied_parameter_and_numbered():
    assert list(couple("strided slice").groups) == [A, f"{A}#2", B]
    assert list(couple("layer scale").groups) == ["g", B]


def test_every_frozen_axis_has_a_reason_a_node_and_a_line():
    coupling = couple("cumulative sum over channels")
    found = next(cold for cold in coupling.frozen if "a.weight:0" in cold.what)
    assert found.why == "cumsum over channels" and found.node == "cumsum"
    assert found.source.startswith("samples/reduction.py:")
    assert found.weights == 0 or found.weights == 8 * 3 + 8
    output = next(cold for cold in coupling.frozen if cold.why == "graph output")
    assert output.node == "head" and output.source.startswith("samples/")
    assert output.what == ("head.weight:0", "head.bias:0")


def test_what_calls_for_a_coupling_is_no_line_of_the_model():
    network = fx.symbolic_trace(nn.Sequential(linear(3, 8), nn.ReLU(), linear(8, 2)))
    assert {frozen.source for frozen in fxprune.couple(network, torch.randn(2, 3)).frozen} == {"-"}


@pytest.mark.parametrize(("folder", "machinery"), [("torch", True), ("torchvision", False), ("torch_geometric", False)])
def test_a_package_beside_torch_is_not_torch(folder, machinery):
    assert is_machinery(str(Path(torch.__file__).parents[1] / folder / "net.py")) == machinery


def test_views_that_disagree_are_both_named():
    (why,) = [cold.why for cold in couple("views that disagree").frozen if "a.weight:0" in cold.what]
    views = "view as 2 x 4, channels on 4 at `view`", "view as 4 x 2, channels on 4 at `view_1`"
    assert why == f"bundled into one channel by {views[0]} and {views[1]}"


def test_reasons_count_the_weights_that_nothing_can_narrow():
    coupling = couple("constant per channel")
    shapes = coupling.shapes
    assert {cold.what: cold.weights for cold in coupling.frozen} == {
        ("a.weight:1",): 0,  # the planes of an image are no channels: its rows are to blame
        ("a.weight:0", "a.bias:0", "b.weight:1"): np.prod(shapes[A]) + np.prod(shapes["a.bias"]),
        ("head.weight:0", "head.bias:0"): np.prod(shapes["head.bias"]),
    }


def test_share_halved_counts_rows_and_columns():
    model = Net(lambda s, x: s.head(s.a(x)), a=linear(3, 8, bias=False), head=linear(8, 4, bias=False))
    assert fxprune.couple(model, torch.zeros(2, 3)).share_halved == pytest.approx(0.5, rel=1e-12)
    model = Net(lambda s, x: s.head(s.b(s.a(x))), a=linear(3, 8), b=linear(8, 6), head=linear(6, 4))
    left = 3 * 4 + 4 + 4 * 3 + 3 + 3 * 4 + 4
    assert fxprune.couple(model, torch.zeros(2, 3)).share_halved == pytest.approx(left / (32 + 54 + 28), rel=1e-12)


def test_a_weight_counts_that_the_model_first_names_elsewhere():
    class Named(nn.Module):
        def __init__(self, wide, narrow):
            super().__init__()
            self.inner = nn.Linear(wide, narrow)
            self.weight, self.bias = self.inner.weight, self.inner.bias

        def forward(self, x):
            return self.inner(x)

    plain, named = (nn.Sequential(kind(3, 8), nn.ReLU(), kind(8, 4)).eval() for kind in (nn.Linear, Named))
    wanted, found = (fxprune.couple(model, torch.zeros(2, 3)) for model in (plain, named))
    assert (found.share_prunable, found.share_halved) == (wanted.share_prunable, wanted.share_halved)


def test_share_prunable_counts_rows_and_columns_once():
    model = Net(lambda s, x: s.head(s.a(x)), a=linear(3, 8, bias=False), head=linear(8, 4, bias=False))
    assert fxprune.couple(model, torch.zeros(2, 3)).share_prunable == 1.0
    model = Net(lambda s, x: (s.head(s.a(x)), s.c(x)), a=linear(3, 8), head=linear(8, 4), c=linear(3, 4))
    model.unread = linear(50, 50)  # neither prunable nor in the narrow network
    whole, free = 24 + 8 + 32 + 4 + 12 + 4, 4 + 12 + 4
    assert fxprune.couple(model, torch.zeros(2, 3)).share_prunable == pytest.approx((whole - free) / whole, rel=1e-12)


def test_a_table_says_it_all():
    text = str(couple("group norm"))
    assert [line.split() for line in text.splitlines()[:4] if "--" not in line] == [
        ["group", "width", "balanced", "tied", "readers"],
        ["a.weight", "4", "yes", "4", "b.weight:1", "x2"],
        ["b.weight", "6", "no", "2", "head.weight:1"],
    ]
    assert "graph output: head.weight:0, head.bias:0" in text
    assert text.splitlines()[-1].startswith("2 groups; ")


def test_a_table_fits_a_terminal_whatever_the_names():
    long = "an_unusually_long_name_of_a_layer_that_is_no_help_to_anyone"
    layers = {f"{long}_{i}": linear(8, 8) for i in range(6)}
    model = Net(lambda s, x: sum(getattr(s, name)(x) for name in layers), **layers)
    lines = str(fxprune.couple(nn.Sequential(linear(3, 8), model), torch.zeros(2, 3))).splitlines()
    assert max(map(len, lines)) <= 100


def test_a_graph_joins_the_layers_of_a_group():
    graph = couple("residual").graph()
    assert isinstance(graph, nx.MultiGraph)
    assert {frozenset(edge[:2]) for edge in graph.edges} == {
        frozenset(pair) for pair in (("a", "c"), ("a", "b"), ("b", "head"))
    }


# A gram matrix is of the batch. With one image its kernels are no groups, and merge too; that is exact at any batch.
ANY_BATCH = [name for name, sample in SAMPLES.items() if sample.other is not None and name != "gram matrix"]
# A kernel of each image becomes groups of a convolution, which one image does not have: fewer channels merge.
BY_IMAGE = ("a kernel of each image", "a kernel modulated for each sample", "a transposed kernel of each image")
CASES = [(name, batch) for name in ANY_BATCH for batch in (1, 3) if batch > 1 or name not in BY_IMAGE]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_widths_do_not_depend_on_the_batch_of_the_example(name, batch):
    sample = SAMPLES[name]
    inputs = tuple(torch.zeros((batch, *x.shape[1:]), dtype=x.dtype) for x in sample.inputs)
    coupling = fxprune.couple(sample.net, inputs, check=False)
    assert {group.name: group.width for group in coupling.groups.values()} == sample.widths
    assert_positions_are_a_partition(coupling)


def test_an_example_on_the_meta_device_serves():
    sample = SAMPLES["residual"]
    coupling = fxprune.couple(sample.net, sample.inputs[0].to("meta"))
    assert {group.name: group.width for group in coupling.groups.values()} == sample.widths


def test_training_mode_and_weights_do_not_matter_and_stay():
    sample = SAMPLES["batch norm"]
    sample.net.train()
    before = {name: tensor.clone() for name, tensor in sample.net.state_dict().items()}
    assert {group.name: group.width for group in couple("batch norm").groups.values()} == sample.widths
    assert sample.net.training and sample.net.n.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in sample.net.state_dict().items())
    sample.net.eval()
