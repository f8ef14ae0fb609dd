"""Channels are compared by what their readers read, and by how much that counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.jobs.inputs import planned
from torch import nn

import fxprune
from fxprune.errors import DataError, ModelError, OptionError
from fxprune.passes.calibration import channel_grams, channel_points
from fxprune.passes.planning.kmeans import balanced_kmeans, weighted_kmeans


class Alike(nn.Module):
    """Channels 0 and 3, and 1 and 2, are the same maps, by filters that differ where the images are zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight[3, :3] = self.first.weight[0, :3]
            self.first.weight[2, :3] = self.first.weight[1, :3]
            self.first.weight[:, 3:] = 5 * torch.eye(4)[[0, 1, 0, 1], :3]
            self.first.bias[:] = torch.tensor([1.0, 2.0, 2.0, 1.0])

    def forward(self, x):
        return self.second(self.first(x).tanh())


def data(count=64):
    return torch.cat([torch.randn(count, 3), torch.zeros(count, 3)], 1)


@pytest.mark.parametrize("cluster", ["activations", "outputs"])
def test_channels_that_do_the_same_are_merged(cluster):
    model, x = Alike(), data()
    coupling = fxprune.couple(model, x[:2])
    found = fxprune.plan(coupling, keep=0.5, cluster=cluster, batches=[x])
    assert found.clusters["first.weight"].tolist() == [0, 1, 1, 0]
    assert fxprune.plan(coupling, keep=0.5).clusters["first.weight"].tolist() == [0, 1, 0, 1]  # rows say otherwise
    assert cluster in found.method


def test_channels_that_nothing_reads_hardly_count():
    """Of three unlike channels for two clusters, the two with the smaller columns share one."""
    model, x = Alike(), data()
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(4, 6))
        model.first.bias.zero_()
        model.second.weight[:, 2:] = 1e-3
    coupling = fxprune.couple(model, x[:2])
    clusters = fxprune.plan(coupling, keep=0.75, cluster="outputs", batches=[x]).clusters["first.weight"]
    assert clusters[0] not in clusters[1:] and clusters[1] not in clusters[2:]


def test_a_gram_matrix_is_that_of_what_is_read():
    model, x = Alike(), data()
    gram = channel_grams(model, fxprune.couple(model, x[:2]), [x])["first.weight"]
    read = model.first(x).tanh().detach().double().numpy()
    expected = np.cov(read.T, bias=True)
    # Products of float32 activations, which cancel: of the largest, 2e-6 was seen, as the kind of CPU sums them.
    np.testing.assert_allclose(gram, expected / np.trace(expected) * 4, rtol=0, atol=1e-5 * gram.max())
    points = channel_points(gram)
    np.testing.assert_allclose(points @ points.T, gram, rtol=0, atol=1e-9 * gram.max())  # small axes are left out


def test_the_same_inputs_give_the_same_clusters():
    model, _ = planned()
    coupling = fxprune.couple(model, torch.empty(2, 1, 8, 8, device="meta"))
    x = torch.randn(100, 1, 8, 8)
    one, two = (fxprune.plan(coupling, keep=0.5, cluster="outputs", batches=[x]) for _ in range(2))
    assert one == two


def test_balanced_groups_get_clusters_of_one_size():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second(self.norm(self.first(x)))

    model, x = Normed(), torch.randn(64, 6)
    found = fxprune.plan(fxprune.couple(model, x[:2]), keep=0.5, cluster="outputs", batches=[x])
    assert np.bincount(found.clusters["first.weight"]).tolist() == [2, 2, 2, 2]


def test_weights_pull_the_means():
    """A heavy point is not worth sharing its cluster; a light one is."""
    points = np.array([[0.0], [1.0], [2.2]])
    assert len(set(weighted_kmeans(points, np.array([1.0, 1.0, 1.0]), 2, 0)[:2])) == 1
    assert len(set(weighted_kmeans(points, np.array([100.0, 100.0, 0.1]), 2, 0)[1:])) == 1


@pytest.mark.parametrize("clusters", [1, 2, 5, 8])
def test_every_cluster_has_a_point_even_if_points_are_equal(clusters):
    points, weights = np.zeros((8, 3)), np.ones(8)
    assert len(np.unique(weighted_kmeans(points, weights, clusters, 0))) == clusters
    if 8 % clusters == 0:
        assert set(np.bincount(balanced_kmeans(points, clusters, 0, weights))) == {8 // clusters}


BAD = {
    "no such features": ({"cluster": "colour"}, OptionError, "`cluster` must be one of rows, .*, not colour"),
    "no inputs": ({"cluster": "outputs"}, OptionError, "needs `batches`"),
    "a method without features": ({"cluster": "outputs", "method": "even", "batches": [data()]}, OptionError, "kmeans"),
    "other inputs": ({"cluster": "outputs", "batches": [torch.randn(4, 5)]}, DataError, r"\[4, 5\]"),
    "empty": ({"cluster": "outputs", "batches": []}, DataError, "no images"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(name):
    given, error, says = BAD[name]
    model = Alike()
    with pytest.raises(error, match=says):
        fxprune.plan(fxprune.couple(model, data()[:2]), keep=0.5, **given)


def test_an_activation_that_is_no_number_is_an_error():
    class Root(Alike):
        def forward(self, x):
            return self.second(self.first(x).sqrt())

    model, x = Root(), data()
    with pytest.raises(ModelError, match="is a NaN"):
        fxprune.plan(fxprune.couple(model, x[:2], check=False), keep=0.5, cluster="outputs", batches=[x])
