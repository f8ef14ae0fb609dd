"""A network by name, with the inputs that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import OptionError

from .artifact import ModelSpec
from .train_seed import seeded


@dataclass(frozen=True, eq=False)
class Network:
    """A network and what is known of how it was made.

    Attributes:
        model: maps [N, C, H, W] to [N, classes].
        spec: how to build it again; None where it was given as a module.
        example: [2, C, H, W] on the meta device: the shape and kind of its inputs.
    """

    model: nn.Module
    spec: ModelSpec | None
    example: Tensor


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int | None = None,
    image_size: int | None = None,
    pretrained: bool = False,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Network:
    """The same name, sizes and seed give the same network, weights included.

    Args:
        name: as ``fxprune.models_zoo.registry.create_model`` takes it.
        num_classes: length of the output.
        in_chans: channels of the image; None: as many as the network is known for.
        image_size: height and width of the image; None: what the network was made for. A network with position
            embeddings is built for it.
        pretrained: begin with published weights.
        seed: of the first weights.
        extra: more arguments of the network's builder, such as ``width`` for ours.

    Raises:
        ModelError: the name is unknown, the network cannot be built, or its weights cannot be had.
    """
    from fxprune.models_zoo.registry import create_model, model_input_size

    channels, height, width = model_input_size(name)
    channels = in_chans or channels
    size = (image_size, image_size) if image_size else (height, width)
    kwargs: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels, **(extra or {})}
    with seeded(seed):
        model = create_model(name, pretrained=pretrained, **kwargs)
    if _embeds_positions(model) and model_input_size(model)[1:] != size:
        kwargs |= {"img_size": size[0]}
        with seeded(seed):
            model = create_model(name, pretrained=pretrained, **kwargs)
    elif not image_size:
        size = model_input_size(model)[1:]
    return Network(model, ModelSpec(name, kwargs), torch.empty(2, channels, *size, device="meta"))


def named_device(name: str) -> torch.device:
    """Device by torch's name for it; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        OptionError: there is no such name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, error) from error


def on_device(name: str) -> torch.device:
    """Device by name, as :func:`named_device` reads it, that can be used.

    Raises:
        OptionError: there is no such device here.
    """
    device = named_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _no_device(str(device), error) from error
    return device


def _no_device(name: str, error: Exception) -> OptionError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OptionError(f"there is no device `{name}` here ({text}); take `cpu` or `auto`.")


def _embeds_positions(model: nn.Module) -> bool:
    return getattr(getattr(model, "patch_embed", None), "img_size", None) is not None
