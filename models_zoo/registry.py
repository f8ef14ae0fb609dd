"""Map names to networks: our own CIFAR networks, ``torchvision/NAME``, and all of timm."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fxprune.common.choices import closest_names
from fxprune.errors import ModelError, kind_and_line
from fxprune.models_zoo.networks import densenet40, resnet20, resnet56, resnet110, resnet164, vgg16_cifar

OWN: Mapping[str, Callable[..., nn.Module]] = {
    build.__name__: build for build in (resnet20, resnet56, resnet110, resnet164, vgg16_cifar, densenet40)
}
TORCHVISION = "torchvision/"

# By default torchvision draws weights from a truncated normal, which is slow and warns, and adds auxiliary outputs.
_TORCHVISION_ARGS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
_TORCHVISION_SIZES = {"inception_v3": 299}


def create_model(
    name: str, *, num_classes: int, in_chans: int = 3, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Build a network that maps [N, in_chans, H, W] to [N, num_classes].

    Args:
        name: one of ours (``resnet56``), ``torchvision/NAME``, or any timm name, with or without its tag.
        num_classes: length of the output.
        in_chans: channels of the image; torchvision builds for 3 only.
        pretrained: load published weights; this needs a network connection or a filled cache.
        **kwargs: arguments of the family's own builder, such as ``width`` for ours and ``img_size`` for timm.

    Raises:
        ModelError: the name is unknown, the network cannot be built with these arguments, or its weights are not
            available.
    """
    import timm

    arguments: dict[str, Any] = {"num_classes": num_classes, **kwargs}
    if name in OWN:
        if pretrained:
            raise ModelError(f"there are no published weights for `{name}`: build it without them and train it.")
        return _build(name, OWN[name], in_chans=in_chans, **arguments)
    if name.startswith(TORCHVISION):
        return _build_torchvision(name, in_chans, pretrained, arguments)
    if timm.is_model(name):
        return _build(name, timm.create_model, name, in_chans=in_chans, pretrained=pretrained, **arguments)
    raise _unknown(name)


def list_models() -> list[str]:
    """List the names for :func:`create_model`: ours, torchvision's classifiers, timm's.

    timm's names come without tags.
    """
    import timm

    return [*OWN, *_torchvision_names(), *timm.list_models()]


def model_input_size(model: str | nn.Module) -> tuple[int, int, int]:
    """Return the (channels, height, width) that a network was made for; 3x224x224 if unknown.

    Raises:
        ModelError: the name is unknown.
    """
    return _size_of_name(model) if isinstance(model, str) else _size_of_module(model)


def published_classes(name: str) -> int:
    """Return how many classes the published weights of a network tell apart; 1000 if unknown."""
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return int(getattr(config, "num_classes", None) or 1000)


def config_of(name: str) -> Any:
    """Return timm's configuration of the published weights of a network.

    Raises:
        ModelError: timm does not know the name, or not with this tag.
    """
    import timm

    if not timm.is_model(name):
        raise _unknown(name)
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that this model does not have
        raise ModelError(f"`{name}`: {error}") from error


def _build(name: str, build: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    asked = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    try:
        return build(*args, **kwargs)
    except Exception as error:  # builders of three packages may raise any exception
        reason = kind_and_line(error)
        if kwargs.get("pretrained") or kwargs.get("weights"):
            raise ModelError(
                f"`{name}` could not be had with its published weights ({asked}): {reason} "
                "Check the network connection, or build it without pretrained weights."
            ) from error
        raise ModelError(f"`{name}` cannot be built with {asked}: {reason}") from error


def _build_torchvision(name: str, in_chans: int, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    short = name.removeprefix(TORCHVISION)
    if name not in _torchvision_names() and short in models.list_models():
        raise ModelError(f"`{name}` is no classifier: give package.module:function, which returns the network.")
    if name not in _torchvision_names():
        raise _unknown(name)
    if in_chans != 3:
        raise ModelError(
            f"`{name}` reads images of 3 channels, the data has {in_chans}: "
            f"take a timm model instead{_timm_twin(short)}, which can be built for any number of channels."
        )
    arguments = {**_TORCHVISION_ARGS.get(short, {}), **arguments}
    if not pretrained:
        return _build(name, models.get_model, short, weights=None, **arguments)
    classes = len(models.get_model_weights(short)["DEFAULT"].meta["categories"])  # type: ignore[index]
    if arguments["num_classes"] != classes:
        raise ModelError(
            f"the published weights of `{name}` tell {classes} classes apart, the data has {arguments['num_classes']}: "
            f"build it without them, or take a timm model{_timm_twin(short)}, whose last layer is replaced."
        )
    return _build(name, models.get_model, short, weights="DEFAULT", **arguments)


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [TORCHVISION + name for name in models.list_models(module=models)]


def _timm_twin(short: str) -> str:
    import timm

    return f" (`{short}`)" if timm.is_model(short) else ""


# Ends of the names of files of weights.
_OF_WEIGHTS = (".safetensors", ".pt", ".pth", ".tar", ".ckpt", ".bin", ".onnx")


def _unknown(name: str) -> ModelError:
    from fxprune.models_zoo.data import PACKAGED, PREFIXES

    if name.endswith(("/", os.sep)):
        return ModelError(f"there is no folder {name}.")
    if not name:
        return ModelError("the name of the network is empty.")
    if name.endswith(_OF_WEIGHTS) and not os.path.exists(name):
        return ModelError(f"there is no file {name}.")
    if os.path.isfile(name):
        return ModelError(
            f"{name} is a file of which no network can be built: give the network by name, and its weights as "
            f"`checkpoint` (--checkpoint {name})."
        )
    if name in PACKAGED or name.startswith(PREFIXES):
        return ModelError(f"`{name}` is data, for --data: name the network, too, as resnet18.")
    near = closest_names(name, list_models(), cutoff=0.6)
    if not near:
        return ModelError(
            f"no model is called `{name}`, and there is no such folder: a name is one of timm (`timm.list_models()`), "
            f"torchvision/NAME, or {', '.join(OWN)}."
        )
    return ModelError(f"no model is called `{name}`; the closest names are {near}.")


def _size_of_name(name: str) -> tuple[int, int, int]:
    if name in OWN:
        return 3, 32, 32
    if name in _torchvision_names():
        size = _TORCHVISION_SIZES.get(name.removeprefix(TORCHVISION), 224)
        return 3, size, size
    return _three(config_of(name).input_size)


def _size_of_module(model: nn.Module) -> tuple[int, int, int]:
    from torchvision.models import Inception3

    if isinstance(size := getattr(model, "input_size", None), tuple):
        return _three(size)
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = _three(config.get("input_size", (3, 224, 224)))
    if isinstance(model, Inception3):
        height = width = 299
    # Built for other images than the published weights: the first layer has the channels, a patch embedding the size.
    first = config.get("first_conv")
    if isinstance(first, str):
        channels = int(getattr(model.get_submodule(first), "in_channels", channels))
    if (built_for := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        height, width = built_for
    return channels, height, width


def _three(size: Any) -> tuple[int, int, int]:
    channels, height, width = size
    return int(channels), int(height), int(width)
