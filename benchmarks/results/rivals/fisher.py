"""Another loss of a merge: rows are weighted by the Fisher information of their layer.

It is a variant of :func:`.greedy.loss_curve` that knows the data; the results compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fxprune.coupling import Coupling, Group
from fxprune.passes.planning import projected, rows_of
from fxprune.passes.train import ContiguousStrided

from .greedy import lost_over_left


def mean_squares(model: nn.Module, batches: Iterable[Tensor], seed: int = 0) -> Mapping[str, float]:
    """Return f = E[(d log p(y | x) / d w)^2], the mean over the numbers w of each parameter.

    The labels y are drawn from the model's p. To second order, a change v of the parameter costs f |v|^2 / 2 in
    Kullback-Leibler divergence, if all numbers of one parameter count the same. With labels from the model, the
    gradients of two images are independent with mean 0, so that the square of their sum is, on average, the sum of
    their squares: no gradient of a single image is needed. (Martens 2020, "New insights and perspectives on the natural
    gradient method", section 5.)

    Returns:
        Name of each parameter -> f.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    squares, images_seen = torch.zeros(len(names), dtype=torch.float64), 0
    generator, training = torch.Generator().manual_seed(seed), model.training
    model.eval()
    try:
        for images in batches:
            with ContiguousStrided():
                logits = model(images)
            labels = logits.detach().softmax(1).cpu().multinomial(1, generator=generator)[:, 0].to(logits.device)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            squares += torch.tensor([0.0 if g is None else float(g.double().square().mean()) for g in gradients])
            images_seen += len(images)
    finally:
        model.train(training)
    return dict(zip(names, (squares / images_seen).tolist(), strict=True))


def fisher_curve(squares: Mapping[str, float], coupling: Coupling, group: Group) -> NDArray[np.float64]:
    """loss(k) = S r_k / (1 - r_k) for k = 1 to width, with S = sum_p f_p |p|^2 / 2.

    r_k is the share of S that k clusters lose.
    """
    model = coupling.model()
    assert model is not None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    blocks = [np.zeros((group.width, 1))]
    for axis in group.tied:
        if axis.parameter in parameters:
            rows = rows_of(parameters[axis.parameter], axis.dim, axis.positions)
            blocks.append(rows * np.sqrt(squares[axis.parameter]))
    points = projected(np.concatenate(blocks, axis=1), 0)
    return float((points**2).sum()) / 2.0 * lost_over_left(points)
