"""Layers tell the truth: their shape attributes follow from their narrow tensors and from the channels they are given."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fxprune.coupling import Shape
from fxprune.errors import RewriteError
from fxprune.leaves import is_transposed
from fxprune.plans import Plan

from .rewrite import narrow_sizes


def adapt_layers(module: fx.GraphModule, plan: Plan) -> None:
    """Set the shape attributes of every layer that the graph calls, in place.

    Raises:
        RewriteError: one layer is called on inputs of different widths.
    """
    seen: dict[str, tuple[str, int]] = {}
    for node in plan.coupling.graph_module.graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
            continue
        layer = module.get_submodule(str(node.target))
        given = plan.coupling.nodes[node.args[0].name].value
        case = next((ADAPT[kind] for kind in type(layer).__mro__ if kind in ADAPT), None)
        if case is None or not isinstance(given, Shape):
            continue
        sizes = narrow_sizes(plan, given)
        width = sizes[-1] if isinstance(layer, (nn.Linear, nn.LayerNorm, nn.RMSNorm)) else sizes[min(1, len(sizes) - 1)]
        before = seen.setdefault(str(node.target), (node.name, width))
        if before[1] != width:
            raise RewriteError(
                f"`{node.target}` reads {before[1]} channels at node `{before[0]}` and {width} at `{node.name}`; "
                "one layer cannot have two widths."
            )
        case(layer, width)


def _convolution(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, _ConvNd)
    first, second = layer.weight.shape[:2]
    # The part of the input that one group reads tells how many groups there are.
    layer.groups = width // (first // layer.groups if is_transposed(layer) else second)
    layer.in_channels = width
    layer.out_channels = second * layer.groups if is_transposed(layer) else first


def _linear(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, nn.Linear)
    layer.out_features, layer.in_features = layer.weight.shape


def _statistics_norm(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, _NormBase)
    layer.num_features = width


def _layer_norm(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
    layer.normalized_shape = (
        tuple(layer.weight.shape) if layer.weight is not None else (*layer.normalized_shape[:-1], width)
    )


def _group_norm(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, nn.GroupNorm)
    layer.num_channels = width


def _prelu(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, nn.PReLU)
    layer.num_parameters = layer.weight.numel()


def _embedding(layer: nn.Module, width: int) -> None:
    assert isinstance(layer, nn.Embedding)
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


ADAPT: dict[type[nn.Module], Callable[[nn.Module, int], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _statistics_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
}
