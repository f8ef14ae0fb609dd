"""Compare the precisions of a captured graph and its model under the caller's autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from fxprune.arguments.guards import SpecialisedError
from fxprune.arguments.inputs import Inputs, run_on
from fxprune.errors import kind_and_line
from fxprune.pytorch.meta import OwnKernels
from fxprune.pytorch.modules import map_tensors
from fxprune.pytorch.torch_private import fake_tensor_mode, pytree

from .observation import leaves_of
from .pair import Pair
from .watch import Watch


def difference_under_autocast(pair: Pair, inputs: Inputs) -> tuple[str, str]:
    """Compare the precisions of multiplications under the caller's autocast, without numbers.

    Returns:
        The difference, and why it is unknown.
    """
    kind = pair.device.type
    if pair.alike or not torch.amp.is_autocast_available(kind):
        return "", ""
    precisions = []
    fake = fake_tensor_mode(allow_non_fake_inputs=True)
    made: dict[int, Tensor] = {}  # by the tensor of the model: without numbers, both may share them

    def faked(_: str, tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = fake.from_tensor(tensor.detach())
        return made[id(tensor)]

    # Outside of the mode, in which nothing else could be copied.
    pairs = [map_tensors(each, faked, only_runs=True).eval() for each in (pair.model, pair.module)]
    own = OwnKernels()  # type: ignore[no-untyped-call]
    with fake, own, torch.autocast(kind, dtype=torch.bfloat16):
        for module in pairs:
            try:
                with Watch({}) as watch:  # type: ignore[no-untyped-call]
                    outputs = leaves_of(run_on(module, pytree.tree_map_only(Tensor, fake.from_tensor, inputs)))
            except SpecialisedError:  # the graph raises an error there
                return "", ""
            except Exception as error:  # the model may need numbers, which it does not have here
                return "", f"under autocast: {kind_and_line(error)}"
            kinds = [leaf.dtype for leaf in outputs if isinstance(leaf, Tensor)]
            precisions.append((sorted(map(str, watch.precisions())), list(map(str, kinds))))
    (wanted, returned), (found, given) = precisions
    if (wanted == found or not wanted) and returned == given:
        return "", ""
    what, a, b = ("multiplies in", wanted, found) if wanted != found else ("returns", returned, given)
    return f"under autocast it {what} {' and '.join(b)} instead of {' and '.join(a)}".replace("torch.", ""), ""
