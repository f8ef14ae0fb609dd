"""What the analysis says of the lengths of axes, and what they are at several sizes of inputs."""

from __future__ import annotations

import contextlib
import sys
from unittest import mock

import torch

from fxprune.analysis import rule_mode
from fxprune.analysis.lengths.factors import factors_behind
from fxprune.arguments.guards import SpecialisedError
from fxprune.pytorch.graphs import OnMeta
from fxprune.pytorch.modules import MetaMode, to_meta


@contextlib.contextmanager
def lengths_told():
    """Collect what the analysis says of the lengths of each node's last result, at the example alone."""
    told = {}

    def noted(operation, labels, answer, *, pointwise):
        behind = factors_behind(operation, labels, answer, pointwise=pointwise)
        if operation.node is not None and len(behind) == 1:
            told[operation.node.name] = operation.outs[0], operation.state.labels
        return behind

    couple = sys.modules["fxprune.analysis.couple"]  # the package has the function under this name
    with mock.patch.object(rule_mode, "factors_behind", noted), mock.patch.object(couple, "bounds", return_value={}):
        yield told


def runs_at(module, *inputs):
    """Run a graph without numbers at each input, as far as its guards let it."""
    runs = [OnMeta(to_meta(module), module.graph, "cpu", garbage_collect_values=False) for _ in inputs]
    with torch.no_grad(), MetaMode(), contextlib.suppress(SpecialisedError):
        for run, given in zip(runs, inputs):
            run.run(given.to("meta"))
    return runs
