"""The closed list of layers that a graph of PyTorch alone may call: each class by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from fxprune.capture import EvalOnly, ModeSwitch
from fxprune.pytorch.torch_private import backward_hooks_of, replaces_code

# Classes that hold other layers, are lists of layers, learn their shape later, or have no forward.
_NOT = (
    "Module", "Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Container", "DataParallel",
    "MultiheadAttention", "Transformer", "TransformerEncoder", "TransformerDecoder", "TransformerEncoderLayer",
    "TransformerDecoderLayer", "AdaptiveLogSoftmaxWithLoss", "SyncBatchNorm",
    "NLLLoss2d", "RNNBase", "RNNCellBase",
)  # fmt: skip


def _listed() -> Iterator[tuple[str, type[nn.Module]]]:
    for name, kind in vars(nn).items():
        left_out = name in _NOT or name.startswith("Lazy") or name.endswith("Loss")
        if isinstance(kind, type) and issubclass(kind, nn.Module) and not left_out:
            yield f"torch.nn.{name}", kind
    for kind in (ModeSwitch, EvalOnly):
        yield f"fxprune.{kind.__name__}", kind


LAYERS: Mapping[str, type[nn.Module]] = dict(_listed())
NAMES: Mapping[type[nn.Module], str] = {kind: name for name, kind in LAYERS.items()}


def layer_name(layer: nn.Module) -> str | None:
    """Name the class of a layer in the closed list; None if it is not in it.

    A layer with hooks or functions of its own is not of its class.
    """
    return NAMES[type(layer)] if is_plain_layer(layer) else None


def is_plain_layer(layer: nn.Module) -> bool:
    """Tell whether a layer is of a listed class, without hooks or functions of its own."""
    return type(layer) in NAMES and not replaces_code(layer) and not backward_hooks_of(layer)


def listed_base(layer: nn.Module) -> type[nn.Module] | None:
    """Return the nearest listed class that a layer derives from; None if there is none."""
    return next((kind for kind in type(layer).__mro__ if kind in NAMES), None)
