"""Compare two calls of a captured graph and its model in training mode."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from fxprune.arguments.inputs import Inputs
from fxprune.pytorch.torch_private import pytree

from .attributes import KEEPS, Attributes
from .example_values import changed, doubled
from .observation import Certain, compare, generator_states, try_to_observe
from .pair import Pair


def training_difference(pair: Pair, inputs: Inputs) -> tuple[str, str]:
    """Compare in training mode; return the difference, and why it is unknown if the model fails."""
    if pair.exported:  # it raises an error there
        return "", ""
    why, unknown, draws = _twice(pair, inputs)
    if why and draws:  # in another order, perhaps: without them both must agree
        with Certain():  # type: ignore[no-untyped-call]
            why, unknown, _ = _twice(pair, inputs)
    return why, unknown


def noise_in_weights(pair: Pair) -> str:
    """Name a weight that a parametrization draws in training: no two rows of it stay alike."""
    if not any(map(is_parametrized, pair.model.modules())):
        return ""
    model = pair.copy(pair.model).train()
    for path, module in model.named_modules():
        for name in module.parametrizations if is_parametrized(module) else ():
            before = generator_states()
            getattr(module, name)
            if before != generator_states():
                return f"a parametrization of `{path}.{name}` draws random numbers"
    return ""


def _twice(pair: Pair, inputs: Inputs) -> tuple[str, str, bool]:
    """Compare two calls in training mode; also tell whether both draw random numbers."""
    # Batch normalisation needs more than one value for each channel.
    for first in (inputs, doubled(inputs)):
        model, module = pair.copies(training=True)
        attributes = Attributes(model, pair.leaf_modules)
        with attributes.watched():
            wanted, found = try_to_observe(model, first), try_to_observe(module, first)
        if not isinstance(wanted, str) and not isinstance(found, str):
            break
    if isinstance(wanted, str):
        return "", f"in training mode the model {wanted}", False
    if isinstance(found, str):
        return f"the graph {found}", "", False
    if why := pair.unwatched_difference(first, wanted, training=True):
        return why, "", False
    pair.drop_caches(wanted)
    draws = wanted.draws and found.draws
    if why := compare(wanted, found):
        return why, "", draws
    second = pytree.tree_map_only(Tensor, changed, first)
    with attributes.watched():
        wanted, found = try_to_observe(model, second), try_to_observe(module, second)
    if kept := attributes.kept():
        return f"{KEEPS} {kept} from one call to the next", "", False
    if isinstance(wanted, str) or isinstance(found, str):
        return (f"at a second call, the graph {found}", "", False) if isinstance(found, str) else ("", "", False)
    pair.drop_caches(wanted)
    why = compare(wanted, found)
    return f"at a second call, {why}" if why else "", "", draws
