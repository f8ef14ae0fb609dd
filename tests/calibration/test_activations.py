"""A merged activation is what the narrow network computes, where rows are equal."""

from __future__ import annotations

import pytest
import torch
from helpers.rewrites.proofs import narrowed, proved
from samples import SAMPLES

from fxprune.arguments.inputs import batch_of
from fxprune.node_facts import Shape
from fxprune.passes.calibration import Execution, merge_value
from fxprune.passes.merge import captured_with
from fxprune.passes.rewrite import WIDE, narrow
from fxprune.passes.verify.batches import batched_inputs, random_batch
from fxprune.passes.verify.float64 import KeepFloat64
from fxprune.pytorch.torch_private import pytree


def values_of(module, inputs):
    execution = Execution(module, [inputs])
    found = {}
    for node in execution.nodes:
        value = execution.compute(node, 0)
        found[node] = value.clone() if isinstance(value, torch.Tensor) else value
    return found


def pairs(name):
    """(node, wide value merged, narrow value) for every activation with channels, but for sums that lack a factor."""
    plan, (snapped, _) = proved(name).plan, narrowed(name)
    inputs = random_batch(batched_inputs(SAMPLES[name].inputs), batch_of(plan.coupling.example_inputs), seed=1)
    inputs = pytree.tree_map_only(torch.Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
    wide = values_of(captured_with(plan.coupling, snapped), inputs)
    by_name = {node.name: value for node, value in wide.items()}
    computed = set()
    values = values_of(narrow(snapped, plan.of_copy(snapped), absorb=False), inputs)
    for node, value in values.items():
        made_of = [each for each in node.all_input_nodes if isinstance(values[each], torch.Tensor)]
        if node.op != "placeholder" and computed.isdisjoint(made_of):
            continue  # a weight, or made of weights and sizes: columns are summed
        computed.add(node)
        facts = plan.coupling.nodes.get(node.meta.get(WIDE, ""))
        known = facts is not None and isinstance(facts.value, Shape) and not facts.products
        if known and isinstance(value, torch.Tensor) and node.op != "output":
            yield node, merge_value(by_name[node.meta[WIDE]], facts.value, plan), value


# What is drawn, or not filled yet, is another number in each run.
DRAWN = [name for name, sample in SAMPLES.items() if sample.frozen.startswith("random numbers")]
DRAWN += ["an empty place filled", "out of a function", "new by its older name"]
DRAWN += ["index that the network changes", "stored number that the network changes"]
# Rows that inputs pick from a weight: columns are summed.
PICKED = ["a table that a function kept whole reads by columns"]
PICKED += ["ones like one channel", "ones like one channel, narrowed"]  # of which only the sizes are read


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in DRAWN + PICKED])
def test_a_merged_activation_is_that_of_the_narrow_network(name):
    narrowed(name)  # outside of the mode: other tests take the same proof
    with KeepFloat64():
        for node, merged, value in pairs(name):
            assert merged.shape == value.shape, node.format_node()
            if value.is_floating_point() and value.numel():
                error = float((merged - value).detach().abs().max()) / max(float(value.detach().abs().max()), 1e-3)
                assert error < 1e-9, (node.format_node(), error)
