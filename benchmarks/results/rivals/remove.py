"""Prune by removal, as the baselines do, with the same coupling and rewrite as C-SGD.

A channel is removed by a merge: its columns become zero and its rows those of a channel that stays, so that the merge
adds nothing to that channel's columns, and the narrow network is the wide one with the channel's map set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.optim import Optimizer

import fxprune
from fxprune.coupling import Axis, Coupling, Group
from fxprune.plans import Plan
from fxprune.pytorch.modules import named_tensors

Gone = Mapping[str, NDArray[np.int64]]
Importance = Mapping[str, NDArray[np.float64]]


def l1_norms(coupling: Coupling) -> Importance:
    """Sum each channel's absolute weights (Li et al. 2017).

    The norm of a channel is summed over all its tied rows in convolution weights, with each layer's norms scaled to a
    mean of 1, so that all layers of a group count the same.
    """
    model = coupling.model()
    assert model is not None
    parameters = dict(model.named_parameters())
    found = {}
    for name, group in coupling.groups.items():
        found[name] = np.zeros(group.width)
        for axis in group.tied:
            if axis.parameter in parameters and parameters[axis.parameter].dim() > 1:
                rows = rows_of(parameters[axis.parameter].detach(), axis).abs().flatten(1).sum(1).double().numpy()
                found[name] += rows / rows.mean()
    return found


def weakest(coupling: Coupling, keep: float, importance: Importance | None = None) -> Gone:
    """Choose the least important channels of each group, as many as C-SGD would merge."""
    found = l1_norms(coupling) if importance is None else importance
    return weakest_of(found, fxprune.plan(coupling, keep, method="even"))


def weakest_of(importance: Importance, plan: Plan) -> Gone:
    """Choose the least important channels of each group, as many as a plan would merge."""
    return {
        name: np.sort(np.argsort(importance[name], kind="stable")[: before - after])
        for name, (before, after) in plan.widths.items()
        if after < before
    }


def removal(coupling: Coupling, gone: Gone) -> Plan:
    """Make a plan in which each channel that stays is a cluster; the others join the first."""
    clusters = {}
    for name, out in gone.items():
        clusters[name] = np.zeros(coupling.groups[name].width, np.int64)
        stays = np.setdiff1d(np.arange(len(clusters[name])), out)
        clusters[name][stays] = np.arange(len(stays))
    return Plan(coupling, clusters, "removal")


def remove(model: nn.Module, coupling: Coupling, gone: Gone) -> fx.GraphModule:
    """Make the network without these channels: it computes ``model`` with their maps at zero."""
    bent = copy.deepcopy(model)
    tensors = dict(named_tensors(bent))
    with torch.no_grad():
        for name, out in gone.items():
            group = coupling.groups[name]
            first = np.setdiff1d(np.arange(group.width), out)[0]
            for axis in group.readers:
                _view(tensors, axis)[torch.as_tensor(axis.positions[out].ravel())] = 0.0
            for axis in group.tied:
                view = _view(tensors, axis)
                view[torch.as_tensor(axis.positions[out])] = view[torch.as_tensor(axis.positions[first])]
    return fxprune.narrow(bent, removal(coupling, gone))


class Lasso:
    """Group Lasso after each step: row <- row * max(0, 1 - lr * strength / |row|).

    Every row of every tied parameter is its own group. With this strength the pull alone would bring the longest row to
    zero after two thirds of the steps, weighted by their learning rates. (Wen et al. 2016 by subgradient; the proximal
    step reaches zero exactly.)
    """

    def __init__(self, model: nn.Module, coupling: Coupling, gone: Gone, optimizer: Optimizer, rates: Sequence[float]):
        """Hook into the optimizer; the end of the context removes the hook."""
        self._parameters = dict(model.named_parameters())
        self._axes = [
            (axis, torch.as_tensor(axis.positions[out].ravel()))
            for group, out in _groups(coupling, gone)
            for axis in group.tied
            if axis.parameter in self._parameters
        ]
        self._strengths = [1.5 * float(norms.max()) / sum(rates) for norms in self._norms()]
        self._handle = optimizer.register_step_post_hook(self._shrink)

    def left(self) -> float:
        """Return max |row that should be zero| / root mean square norm of its parameter's rows."""
        worst = 0.0
        for (axis, _), norms in zip(self._axes, self._norms(), strict=True):
            rows = _norms_of(_view(self._parameters, axis))
            worst = max(worst, float(norms.max() / rows.square().mean().sqrt()))
        return worst

    def __enter__(self) -> Lasso:
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    def _norms(self) -> Iterator[Tensor]:
        for axis, positions in self._axes:
            yield _norms_of(_view(self._parameters, axis)[positions])

    @torch.no_grad()
    def _shrink(self, optimizer: Optimizer, *_: object) -> None:
        lr = float(optimizer.param_groups[0]["lr"])
        for (axis, positions), norms, strength in zip(self._axes, self._norms(), self._strengths, strict=True):
            shrink = (1.0 - lr * strength / norms.clamp(min=1e-12)).clamp(min=0.0)
            view = _view(self._parameters, axis)
            view[positions] = view[positions] * shrink.view(-1, *[1] * (view.dim() - 1))


def _groups(coupling: Coupling, gone: Gone) -> Iterator[tuple[Group, NDArray[np.int64]]]:
    for name, out in gone.items():
        yield coupling.groups[name], out


def _view(tensors: Mapping[str, Tensor], axis: Axis) -> Tensor:
    return tensors[axis.parameter].movedim(axis.dim, 0)


def _norms_of(rows: Tensor) -> Tensor:
    return rows.detach().reshape(len(rows), -1).norm(dim=1)


def rows_of(tensor: Tensor, axis: Axis) -> Tensor:
    """[width, occurrences, ...]."""
    return tensor.movedim(axis.dim, 0)[torch.as_tensor(axis.positions)]
