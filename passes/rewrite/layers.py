"""Set the shape attributes of layers from their narrow tensors and their input channels."""

from __future__ import annotations

from torch import fx, nn

from fxprune.errors import PlanError, RewriteError
from fxprune.plans import Plan
from fxprune.pytorch.layer_sizes import ADAPT, channel_axis

from .graph import narrow_sizes


def adapt_layers(module: fx.GraphModule, plan: Plan) -> None:
    """Set the shape attributes of every called layer, in place.

    Raises:
        RewriteError: one layer is called on inputs of different widths.
        PlanError: a projected LSTM would be as wide inside as its projection.
    """
    layers = dict(module.named_modules())
    for name, shapes in plan.coupling.layers.items():
        layer = layers[name]
        case = next(ADAPT[kind] for kind in type(layer).__mro__ if kind in ADAPT)
        every = [(shape.sizes, narrow_sizes(plan, shape)) for shape in shapes]
        widths = {narrow[channel_axis(layer, wide, narrow)] for wide, narrow in every if narrow}
        if len(widths) > 1 and not isinstance(layer, (nn.PReLU, nn.Embedding, nn.EmbeddingBag)):
            raise RewriteError(f"layer `{name}` is called on {sorted(widths)} channels; it cannot have several widths.")
        wide, narrow = max(every, key=lambda pair: len(pair[0]))
        case(layer, wide, narrow)
        if isinstance(layer, nn.RNNBase) and layer.hidden_size == layer.proj_size:
            raise PlanError(
                f"layer `{name}` would have {layer.hidden_size} channels inside and as many projected ones, which "
                "PyTorch takes for a layer that projects nothing: give one of the two groups another width."
            )
