"""The Fisher information is the one that its definition gives, image by image and label by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.benchmarks.results import EXAMPLE, residual_net

import fxprune
from benchmarks.results.rivals.fisher import fisher_curve, mean_squares


def test_the_fisher_information_is_that_of_every_image_and_every_label():
    net, images = residual_net().double(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    names, parameters = zip(*net.named_parameters(), strict=True)
    exact = dict.fromkeys(names, 0.0)
    for image in images:
        logs = net(image[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, parameters, retain_graph=True)
            for found, gradient in zip(names, gradients, strict=True):
                exact[found] += float((log.exp() * gradient.square().mean()).detach()) / len(images)
    squares = mean_squares(net, [images] * 600)
    assert squares == pytest.approx(exact, rel=0.3)  # 600 draws; one draw varies by some hundred per cent
    assert squares["conv1.weight"] == pytest.approx(exact["conv1.weight"], rel=0.3)
    coupling = fxprune.couple(net, EXAMPLE.double())
    group = coupling.groups["stage1.0.conv1.weight"]
    curve = fisher_curve(squares, coupling, group)
    twice = fisher_curve({name: 2.0 * f for name, f in squares.items()}, coupling, group)
    assert twice == pytest.approx(2.0 * curve, rel=1e-12)  # float64 rounding
    assert curve[-1] == 0.0 and (np.diff(curve) < 0).all()
