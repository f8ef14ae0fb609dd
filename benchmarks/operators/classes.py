"""Say of every ATen operator whether it has a rule or a class, or freezes channels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fxprune.analysis import RULES
from fxprune.pytorch.torch_private import OpOverload, is_composed, op_arguments, registered_names

# Suffixes of overloads that write their result into an argument: graphs of models do not call them.
_OUT = ("out", "_out", "_copy")
_REGISTERED = frozenset(registered_names())


def operators() -> Iterator[OpOverload]:
    """Yield every operator of ATen that a model in eval mode may call."""
    for name in sorted(dir(torch.ops.aten)):
        packet = getattr(torch.ops.aten, name)
        if name.endswith(("_backward", "_copy")) or not hasattr(packet, "overloads"):
            continue
        for overload in packet.overloads():
            operator = getattr(packet, overload)
            # Some overloads exist in TorchScript only, or take names of axes.
            if (
                operator.name() in _REGISTERED
                and not overload.endswith(_OUT)
                and not overload.lower().startswith(("dimname", "names"))
            ):
                yield operator


def class_of(operator: OpOverload) -> str:
    """Return ``rule``, ``pointwise``, ``composed`` of others, ``no tensor`` or ``freezes``."""
    if operator in RULES:
        return "rule"
    if not any("Tensor" in str(argument.type) for argument in op_arguments(operator)):
        return "no tensor"
    if torch.Tag.pointwise in operator.tags:
        return "pointwise"
    if is_composed(operator):
        return "composed"
    return "freezes"
