"""Build a network by name, together with example inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxprune.common.random import seeded
from fxprune.common.silence import silenced
from fxprune.errors import ModelError, OptionError, first_line, kind_and_line
from fxprune.pytorch.modules import MetaMode, to_meta

from .spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Network:
    """A network, how to build it again, and an example of its inputs.

    Attributes:
        model: maps [N, C, H, W] to [N, classes], or what the task's data hold.
        spec: how to build it again; None if it was given as a module.
        example: [2, C, H, W] on the meta device: the shape and dtype of its inputs; or inputs of two samples.
        fresh: names of the classifier's tensors that a checkpoint of other classes left at random.
    """

    model: nn.Module
    spec: ModelSpec | None
    example: Any
    fresh: tuple[str, ...] = ()


def build(
    name: str,
    *,
    num_classes: int,
    in_chans: int | None = None,
    image_size: int | None = None,
    pretrained: bool = False,
    seed: int = 0,
    **extra: Any,
) -> Network:
    """Build a network; the same name, sizes and seed give the same network and weights.

    Args:
        name: a name for ``fxprune.models_zoo.registry.create_model``.
        num_classes: length of the output.
        in_chans: channels of the image; None: the network's usual number.
        image_size: height and width of the image; None: the network's usual size. A network with position embeddings,
            or one that otherwise does not run on such images, is built for this size.
        pretrained: begin with published weights.
        seed: of the initial weights.
        **extra: further arguments of the network's builder, such as ``width`` for ours.

    Raises:
        ModelError: the name is unknown, the network cannot be built, or not for images of this size, or its weights are
            not available.
    """
    from .registry import TORCHVISION, create_model, model_input_size

    channels, height, width = model_input_size(name)
    channels = in_chans or channels
    size = (image_size, image_size) if image_size else (height, width)
    kwargs: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels, **extra}
    with seeded(seed):
        model = create_model(name, pretrained=pretrained, **kwargs)
    made_for = model_input_size(model)[1:]
    reason = _misfit(model, channels, size, made_for) if made_for != size else ""
    if made_for != size and (reason or _embeds_positions(model)):
        kwargs |= {"image_size" if name.startswith(TORCHVISION) else "img_size": size[0]}
        try:
            with seeded(seed):
                model = create_model(name, pretrained=pretrained, **kwargs)
        except ModelError as error:
            if _embeds_positions(model):
                raise
            raise ModelError(
                f"`{name}` does not run on images of {size[0]}x{size[1]}, and it cannot be built for them. It was made "
                f"for {made_for[0]}x{made_for[1]}: try --image-size with that, or with a multiple of 32. ({reason})"
            ) from error
    elif not image_size:
        size = made_for
    return Network(model, ModelSpec(name, kwargs), torch.empty(2, channels, *size, device="meta"))


def named_device(name: str) -> torch.device:
    """Return the device of a torch name; ``auto`` is CUDA if available, else the CPU.

    Raises:
        OptionError: torch does not know the name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise OptionError(
            f"there is no kind of device that is called `{name}`; take `cpu`, `cuda`, `cuda:0`, `mps` or `auto` "
            "(CUDA where there is a GPU for it, else the CPU)."
        ) from error


def on_device(name: str) -> torch.device:
    """Return the device of a name (:func:`named_device`), and check that it works here.

    Raises:
        OptionError: this machine does not have the device.
    """
    device = named_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        text = first_line(error)
        raise OptionError(f"there is no device `{device}` here ({text}); take `cpu` or `auto`.") from error
    return device


def _misfit(model: nn.Module, channels: int, size: tuple[int, int], made_for: tuple[int, int]) -> str:
    """Return why a network does not run on images of a size; empty if it does.

    It is also empty if the network does not run on its own size either.
    """
    reason = _why_not(model, channels, size)
    return "" if reason and _why_not(model, channels, made_for) else reason


def _why_not(model: nn.Module, channels: int, size: tuple[int, int]) -> str:
    """Run a network on the meta device for images of a size; return its error, or an empty text."""
    try:
        with silenced(), MetaMode(), torch.no_grad():  # type: ignore[no-untyped-call]
            to_meta(model).eval()(torch.empty(2, channels, *size, device="meta"))
    except Exception as error:  # a network may raise any exception
        return kind_and_line(error)
    return ""


def _embeds_positions(model: nn.Module) -> bool:
    return getattr(getattr(model, "patch_embed", None), "img_size", None) is not None
