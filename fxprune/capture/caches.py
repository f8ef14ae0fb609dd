"""A network that kept what it computed at one size is captured as if it had kept nothing.

Detectors keep their anchors, and compute them anew where the sizes of their maps are others than before:
``if self.shape != shape``. After a call, the example finds what was kept, and the graph would hold for that size only.
So the graph is captured from a copy that has forgotten what a call at another batch or size sets anew. It computes at
each call what the model computes where it finds nothing, and is compared in eval mode with the model, which has all
that it kept, at two batches or sizes. What was kept may have the precision of an earlier call; under autocast, the copy
counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import fx, nn

from fxprune.arguments.batches import graph_batches
from fxprune.arguments.guards import guard_equal
from fxprune.arguments.inputs import Inputs
from fxprune.equivalence import Difference, at_other_sizes, attributes_set, difference
from fxprune.errors import CaptureError
from fxprune.pytorch.modules import clone_sharing, kept_tensors
from fxprune.pytorch.torch_private import pytree


def without_caches(
    model: nn.Module,
    module: fx.GraphModule,
    inputs: Inputs,
    found: Difference,
    capture_again: Callable[..., fx.GraphModule],
) -> tuple[nn.Module, fx.GraphModule, Difference]:
    """Capture a model without what it keeps for the sizes of a call, if these may bind it.

    Args:
        model: the model with all that it keeps.
        module: its graph.
        inputs: the example.
        found: differences between the two.
        capture_again: ``capture``, of the same layers.

    Returns:
        The copy that forgot, its graph, and the differences between that graph and the model. All as given, if
        nothing is kept for sizes, or if the other graph does not compute the same at any batch.
    """
    given = model, module, found
    decided = any(isinstance(n.args[1], bool) for n in module.graph.find_nodes(op="call_function", target=guard_equal))
    if not decided or not any(kept_tensors(each) for each in model.modules()):
        return given
    # The model may have kept what it computed at one of these batches and sizes.
    others = itertools.chain((_with_more(inputs, 1), _with_more(inputs, 2)), at_other_sizes(inputs))
    twins = ((_forgetting(model, other), other) for other in others)
    twin, other = next((each for each in twins if each[0] is not None), (None, inputs))
    if twin is None:
        return given
    try:
        anew = capture_again(twin, inputs, check=False)
        if graph_batches(anew, inputs).why:
            return given
        found = difference(twin, anew, inputs)
        alike = all(not difference(model, anew, each, eval_only=True).always for each in (inputs, other))
    except CaptureError:
        return given
    return given if found.always or not alike else (twin, anew, found)


def _with_more(inputs: Inputs, count: int) -> Inputs:
    """Repeat the first sample behind the others."""
    more: Inputs = pytree.tree_map_only(
        torch.Tensor, lambda x: torch.cat([x, *[x[:1]] * count]) if x.dim() else x, inputs
    )
    return more


def _forgetting(model: nn.Module, other: Inputs) -> nn.Module | None:
    """Copy a model with None for what a call on ``other`` inputs sets; None: nothing."""
    try:
        names = attributes_set(model, other)
    except Exception:  # what another batch or size would do is not known
        return None
    twin, found = clone_sharing(model), False
    for name in names:
        path, _, last = name.rpartition(".")
        kept = vars(twin.get_submodule(path))
        if last in kept:
            kept[last] = None
            found = True
    return twin if found else None
