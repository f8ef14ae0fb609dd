"""What calls do with the places of an axis, and how what lies in one is told."""

from __future__ import annotations

import functools
import weakref
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn


class Part(NamedTuple):
    """An axis of a node that lies in a flattened one.

    Attributes:
        node: whose axis it is.
        dim: its number.
        kind: whether it has ``channels`` alone, ``positions`` alone, or ``both`` in an order that its view states.
        size: how long it is at the example, if the axis holds more.
        end: of positions that a view cuts from others: at which end of the axis they are.
    """

    node: fx.Node
    dim: int
    kind: str
    size: int = 0
    end: str = ""


_CONSTANT: weakref.WeakKeyDictionary[fx.Graph, dict[fx.Node, bool]] = weakref.WeakKeyDictionary()

# An axis before a call, or what the call makes.
Source = tuple[fx.Node, int] | Part

# Calls that only move axes, as their strides tell.
MOVES = frozenset({
    "transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "unsqueeze", "squeeze", "expand", "getitem",
    "t", "mt", "mh", "h", "adjoint", "broadcast_to", "getattr",
    "index",
})  # fmt: skip
REGULARISERS = frozenset({"droppath", "stochasticdepth"})  # of timm and torchvision
REPEATS = frozenset({"repeat", "tile", "repeat_interleave"})
# Which tensors give the rows and columns of a product; all give what is in front of these.
PRODUCTS = {"matmul": (0, 1), "bmm": (0, 1), "scaled_dot_product_attention": (0, 2)}
# Calls that leave each number at its place, beside those that change each by itself.
IN_PLACE = frozenset({
    "softmax", "log_softmax", "logsoftmax", "cumsum", "cumprod", "dropout", "contiguous", "clone", "detach", "to",
    "float", "double", "half", "type", "type_as", "identity", "normalize", "layer_norm", "layernorm", "relu", "gelu",
    "silu", "tanh", "sigmoid", "relu6", "leakyrelu", "elu", "selu", "celu", "mish", "softplus", "hardswish",
    "hardsigmoid", "hardtanh", "logsigmoid", "truediv", "batch_norm", "batchnorm1d", "batchnorm2d", "batchnorm3d",
    "syncbatchnorm", "group_norm", "groupnorm", "rms_norm", "rmsnorm", "instance_norm", "instancenorm2d", "prelu",
    "droppath", "stochasticdepth", "expand_as", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
    "alpha_dropout", "alphadropout", "feature_alpha_dropout", "featurealphadropout", "zeros_like", "ones_like",
    "full_like", "empty_like", "rand_like", "randn_like", "log_sigmoid", "softsign", "tanhshrink", "softmin",
    "softmax2d", "gumbel_softmax", "renorm",
})  # fmt: skip
# Calls that leave images and maps, whatever they do in space.
SPATIAL = tuple(f"{name}{n}d" for name in ("max_pool", "avg_pool", "maxpool", "avgpool") for n in (1, 2, 3))
SPATIAL += tuple(f"adaptive_{name}" for name in SPATIAL[:6]) + tuple(f"adaptive{name}" for name in SPATIAL[6:])
SPATIAL += tuple(f"{name}pad{n}d" for name in ("zero", "constant", "reflection", "replication") for n in (1, 2, 3))
SPATIAL += ("interpolate", "upsample")
# Calls that leave images, and bring channels and space together.
IMAGES = frozenset({
    "im2col", "fold", "pixelshuffle", "pixel_shuffle", "pixelunshuffle", "pixel_unshuffle", "grid_sample",
    "grid_sampler",
})  # fmt: skip
# Calls that cut an axis into equal parts, as many as they say.
CUTS = frozenset({"group_norm", "groupnorm", "glu", "channel_shuffle", "channelshuffle", "native_channel_shuffle"})
# Joins along an axis of their own; vectors are joined along their only one.
STACKS = {"hstack": 1, "vstack": 0, "row_stack": 0, "dstack": 2, "column_stack": 1}
# Calls that treat all places of an axis alike, or leave it.
SUMS = frozenset({
    "sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "norm", "logsumexp", "vector_norm",
})  # fmt: skip
WEIGHTS = {"linear": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1}  # the axis that a weight makes


def name_of(target: Any) -> str:
    """Name what a call runs, in lower case and without a variant: ``add_.Tensor`` is ``add``.

    ``unfold`` is that of tensors, along one axis; that of images is ``im2col``, as in ATen.
    """
    if target in (F.unfold, nn.Unfold):
        return "im2col"
    return str(getattr(target, "__name__", target)).lower().partition(".")[0].rstrip("_")


@functools.cache
def is_pointwise(name: str) -> bool:
    """Tell whether an operator of this name changes each number by itself."""
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None or name in SUMS else packet.overloads()
    return any(torch.Tag.pointwise in getattr(packet, each).tags for each in overloads)


def is_constant(node: fx.Node) -> bool:
    """Tell whether a value is made of parameters and buffers alone."""
    known = _CONSTANT.setdefault(node.graph, {})
    waiting = [node]
    while waiting:  # a deep graph would exceed the depth of Python's stack
        last = waiting[-1]
        missing = [each for each in last.all_input_nodes if each not in known]
        waiting += missing
        if not missing:
            given = [known[each] for each in waiting.pop().all_input_nodes]
            known[last] = last.op == "get_attr" or (bool(given) and all(given))
    return known[node]
