"""Count the inputs that give a layer as many positions as it has features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from fxprune.arguments.inputs import batch_of, inputs_for
from fxprune.passes.calibration import Calibration, Contraction, Execution, Observer
from fxprune.pytorch.modules import device_of, named_tensors
from fxprune.pytorch.torch_private import pytree, storage_id


@torch.no_grad()
def inputs_needed(narrow: fx.GraphModule, inputs: Calibration) -> dict[str, int]:
    """Map each layer to how many inputs give it at least as many positions as features.

    With fewer, a fit has many solutions, and the penalty chooses one.
    """
    device = device_of(narrow)
    batch = inputs_for(narrow, pytree.tree_map_only(Tensor, lambda x: x.to(device), inputs.batches[0]))
    storages = {storage_id(tensor): name for name, tensor in named_tensors(narrow)}
    observer = Observer(storages)
    execution = Execution(narrow, [batch])
    for node in execution.nodes:
        execution.compute(node, 0, observer if node.op.startswith("call") else None)
        execution.free(node)
    share = sum(map(batch_of, inputs.batches)) / inputs.count  # the others are held back
    return {
        storages[storage_id(call.weight)]: math.ceil(call.features * batch_of(batch) / len(call.rows(call.out)) / share)
        for call in observer.seen
        if isinstance(call, Contraction)
    }
